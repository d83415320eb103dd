"""``python -m dm_utils.chapters.dictionaries.train``: train and measure the dictionaries again; goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dm_utils.chapters.dictionaries import results
from dm_utils.lab import tables
from dm_utils.lab.sweep import chosen, numbers, work_through
from dm_utils.world.profiles import load_profile

if TYPE_CHECKING:
    from dm_utils.chapters.dictionaries.runs import Run, Workshop
    from dm_utils.dictionaries.training import Plan


def main(
    work: Annotated[Path, typer.Option(help="Work folder; running again goes on from what it holds.")] = Path(
        "_dictionaries"
    ),
    methods: Annotated[str, typer.Option(help="Comma-separated; all of them unless given.")] = "",
    widths: Annotated[str, typer.Option(help="Comma-separated; the first is the headline's.")] = "512,1024",
    l0s: Annotated[str, typer.Option(help="Comma-separated; the first is the headline's.")] = "4,8",
    seeds: Annotated[int, typer.Option(min=1, help="At the headline's width and L0.")] = 3,
    steps: Annotated[int, typer.Option(min=20, help="Optimiser steps.")] = 700,
    rate_steps: Annotated[int, typer.Option(min=20, help="Steps of each trial of a learning rate.")] = 350,
    batch: Annotated[int, typer.Option(min=16, help="Tokens in a step.")] = 512,
    layer: Annotated[int | None, typer.Option(help="The lab's own unless given.")] = None,
    contexts: Annotated[int, typer.Option(min=16, help="Contexts of the evaluation text that measure.")] = 192,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    longer: Annotated[int, typer.Option(min=1, help="The headline again with so many times the steps; 1: not.")] = 4,
    ship: Annotated[
        bool, typer.Option("--ship", help="Write the tables into the package, too, after every run.")
    ] = False,
) -> None:
    """Train every method's dictionary on the lab's text, measure it, and write one row per run.

    A learning rate is found for each method first. Then what matters most comes first: every method at the first width and L0 with one
    seed, TopK at a quarter to four times that L0, more seeds, other sizes; at the end the headline with more tokens. Each run is kept; a
    run that was killed goes on from its last checkpoint.
    """
    import torch

    from dm_utils.chapters.dictionaries.rates import plan_of
    from dm_utils.chapters.dictionaries.runs import Workshop, headline, order
    from dm_utils.dictionaries.methods import METHODS
    from dm_utils.lab import work as lab_work

    torch.set_num_threads(threads)
    names = chosen(methods, METHODS, "method")
    where = load_profile("lab").layer if layer is None else layer
    d_saes, wanted_l0s = numbers(widths, "widths"), numbers(l0s, "l0s")
    lab_work.prepare(work, where)
    folders = (work, results.SHIPPED.parent) if ship else (work,)
    lrs = find_rates(work, where, names, d_saes[0], wanted_l0s[0], plan_of(batch, rate_steps), folders)
    about: dict[str, Any] = {
        "command": f"{results.COMMAND} --widths {widths} --l0s {l0s} --seeds {seeds} --steps {steps} --rate-steps {rate_steps} "
        f"--batch {batch} --layer {where} --contexts {contexts} --longer {longer}"
    }
    about |= {"text": lab_work.identity(work), "contexts": contexts, "width": d_saes[0], "l0": wanted_l0s[0]}
    shop = Workshop(work, where, plan_of(batch, steps), contexts, lrs)
    train(shop, order(names, d_saes, wanted_l0s, seeds), [folder / results.SHIPPED.name for folder in folders], about)
    if longer > 1:
        shop = Workshop(work, where, plan_of(batch, longer * steps), contexts, lrs, f"runs_{longer}", dear=False)
        again = headline(names, d_saes[0], wanted_l0s[0])
        train(shop, again, [folder / results.LONGER for folder in folders], about | {"longer": longer})


def find_rates(
    work: Path, layer: int, names: Sequence[str], width: int, l0: int, plan: Plan, folders: Sequence[Path]
) -> dict[str, float]:
    """Each method's learning rate, by its name; the table of those tried goes into the folders."""
    from tqdm.auto import tqdm

    from dm_utils.chapters.dictionaries import rates
    from dm_utils.dictionaries.methods import METHODS

    rated = [METHODS[name] for name in dict.fromkeys(["topk", *names]) if METHODS[name].rated]
    found = [
        rates.tuned(work, layer, method, width, l0, plan)
        for method in tqdm(rated, desc="learning rates", unit="method")
    ]
    for folder in folders:
        tables.write(folder / results.RATES, rates.rows(found), {"steps": plan.steps, "batch": plan.batch})
    return {one["method"]: one["best"] for one in found}


def train(shop: Workshop, wanted: Sequence[Run], files: Sequence[Path], about: Mapping[str, Any]) -> None:
    """Do the runs, and after each write the rows of all that are finished; token rules are tested at the headline's size."""
    from dm_utils.dictionaries.methods import METHODS

    size = about["width"], about["l0"]

    def row(run: Run, report: dict[str, Any]) -> dict[str, Any]:
        return report | shop.rules(run) if (run.d_sae, run.l0) == size else report

    def write(failed: dict[str, str]) -> None:
        done = [row(run, report) for run in wanted if (report := shop.report(run)) is not None]
        ran = {report["method"] for report in done}
        missing = dict.fromkeys(METHODS[run.method].title for run in wanted if run.method not in ran)
        said: dict[str, Any] = {"plan": asdict(shop.plan), "wanted": len(wanted), "done": len(done), "failed": failed}
        said["missing_methods"] = list(missing)
        for file in files:
            tables.write(file, done, {**about, **said})

    work_through(wanted, shop.do, write)


if __name__ == "__main__":
    typer.run(main)
