"""``python -m dm_utils.chapters.repairs.train``: train and measure the trained repairs again; goes on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dm_utils.base.errors import require
from dm_utils.chapters.repairs.results import COMMAND, SHIPPED
from dm_utils.lab import tables
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
    from tqdm.auto import tqdm

    from dm_utils.chapters.repairs.runs import FROM_SCRATCH, SAME_SAE, Recipe, Workshop, order
    from dm_utils.lab import work as lab_work

    torch.set_num_threads(threads)
    names = [name.strip() for name in repairs.split(",") if name.strip()] or [*FROM_SCRATCH, *SAME_SAE]
    for name in names:
        require(name, (*FROM_SCRATCH, *SAME_SAE), "repair")
    lab = load_profile("lab")
    recipe = Recipe(lab.layer if layer is None else layer, int(lab.near_l0))
    recipe = replace(recipe, dictionary=replace(recipe.dictionary, steps=steps, batch=batch))
    recipe = replace(recipe, descent=replace(recipe.descent, steps=tuning_steps))
    lab_work.prepare(work, recipe.layer)
    shop, every = Workshop(work, recipe), list(order(numbers(widths)))
    about: dict[str, Any] = {"command": f"{COMMAND} --widths {widths} --steps {steps} --batch {batch}"}
    about["command"] += f" --tuning-steps {tuning_steps} --layer {recipe.layer}"
    about |= {"recipe": recipe.plain(), "text": lab_work.identity(work), "wanted": len(every)}
    for run in tqdm([run for run in every if run.repair in names], desc="runs", unit="run"):
        row = shop.do(run)
        tqdm.write(f"{run.id}: FVU {row['before_fvu']:.3f} to {row['fvu']:.3f}, nonlinear {row['fvu_nonlinear']:.3f}")
        done = [found for other in every if (found := shop.report(other)) is not None]
        missing = [other.id for other in every if other.id not in {f"{row['repair']}_{row['d_sae']}" for row in done}]
        for file in (work / "repairs.csv", *([SHIPPED] if ship else [])):
            tables.write(file, done, about | {"done": len(done), "missing": missing})


def numbers(text: str) -> list[int]:
    """Whole numbers, separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"widths = {text!r}: give whole numbers separated by commas, as 512,1024") from None


if __name__ == "__main__":
    typer.run(main)
