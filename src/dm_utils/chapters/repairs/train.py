"""``python -m dm_utils.chapters.repairs.train``: train and measure the trained repairs again; goes on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dm_utils.chapters.repairs.results import COMMAND, SHIPPED
from dm_utils.lab import tables
from dm_utils.lab.sweep import chosen, numbers, work_through
from dm_utils.world.profiles import load_profile


def main(
    work: Annotated[Path, typer.Option(help="Work folder; running again goes on from what it holds.")] = Path(
        "_repairs"
    ),
    repairs: Annotated[str, typer.Option(help="Comma-separated; all of them unless given.")] = "",
    widths: Annotated[str, typer.Option(help="Comma-separated widths of the lab's SAEs.")] = "512,1024,2048",
    steps: Annotated[int, typer.Option(min=20, help="Of dictionaries, from activations.")] = 400,
    batch: Annotated[int, typer.Option(min=16, help="Tokens in such a step.")] = 1024,
    tuning_steps: Annotated[int, typer.Option(min=1, help="Of what is tuned through the model.")] = 60,
    layer: Annotated[int | None, typer.Option(help="The lab's own unless given.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    ship: Annotated[
        bool, typer.Option("--ship", help="Write the table into the package, too, after every run.")
    ] = False,
) -> None:
    """Train every repair on the lab's text, measure it, and write one row per run; each run is kept and not done twice."""
    import torch

    from dm_utils.chapters.repairs.runs import FROM_SCRATCH, SAME_SAE, Recipe, Workshop, order
    from dm_utils.lab import work as lab_work

    torch.set_num_threads(threads)
    names, d_saes = chosen(repairs, (*FROM_SCRATCH, *SAME_SAE), "repair"), numbers(widths, "widths")
    lab = load_profile("lab")
    recipe = Recipe(lab.layer if layer is None else layer, int(lab.near_l0))
    recipe = replace(recipe, dictionary=replace(recipe.dictionary, steps=steps, batch=batch))
    recipe = replace(recipe, descent=replace(recipe.descent, steps=tuning_steps))
    lab_work.prepare(work, recipe.layer)
    shop, every = Workshop(work, recipe), list(order(d_saes))
    about: dict[str, Any] = {"command": f"{COMMAND} --widths {widths} --steps {steps} --batch {batch}"}
    about["command"] += f" --tuning-steps {tuning_steps} --layer {recipe.layer}"
    about |= {"recipe": recipe.plain(), "text": lab_work.identity(work), "wanted": len(every)}

    def write(failed: dict[str, str]) -> None:
        found = {run.id: report for run in every if (report := shop.report(run)) is not None}
        missing = [run.id for run in every if run.id not in found]
        said = about | {"done": len(found), "missing": missing, "failed": failed}
        for file in (work / SHIPPED.name, *([SHIPPED] if ship else [])):
            tables.write(file, list(found.values()), said)

    work_through([run for run in every if run.repair in names], shop.do, write)


if __name__ == "__main__":
    typer.run(main)
