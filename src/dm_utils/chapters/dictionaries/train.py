"""``python -m dm_utils.chapters.dictionaries.train``: train and measure the dictionaries again; goes on where it was stopped."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dm_utils.base.errors import require
from dm_utils.world.profiles import load_profile


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
    ship: Annotated[
        bool, typer.Option("--ship", help="Write the table into the package, too, after every run.")
    ] = False,
) -> None:
    """Train every method's dictionary on the lab's text, measure it, and write one row per run.

    A learning rate is found for each method first. Then what matters most comes first: every method at the first width and L0 with one
    seed, TopK at a quarter to four times that L0, more seeds, other sizes. Each run is kept; a run that was killed goes on from its
    last checkpoint.
    """
    import torch
    from tqdm.auto import tqdm

    from dm_utils.chapters.dictionaries import rates, results, runs
    from dm_utils.dictionaries.methods import METHODS
    from dm_utils.lab import tables
    from dm_utils.lab import work as lab_work

    torch.set_num_threads(threads)
    names = [name.strip() for name in methods.split(",") if name.strip()] or list(METHODS)
    for name in names:
        require(name, METHODS, "method")
    where = load_profile("lab").layer if layer is None else layer
    d_saes, wanted_l0s = numbers(widths, "widths"), numbers(l0s, "l0s")
    lab_work.prepare(work, where)
    rated = [METHODS[name] for name in dict.fromkeys(["topk", *names]) if METHODS[name].rated]
    found = [
        rates.tuned(work, where, method, d_saes[0], wanted_l0s[0], rates.plan_of(batch, rate_steps))
        for method in tqdm(rated, desc="learning rates", unit="method")
    ]
    for folder in (work, *([results.SHIPPED.parent] if ship else [])):
        tables.write(folder / results.RATES, rates.rows(found), {"steps": rate_steps, "batch": batch})
    lrs = {one["method"]: one["best"] for one in found}
    shop = runs.Workshop(work, where, rates.plan_of(batch, steps), contexts, lrs)
    wanted = runs.order(names, d_saes, wanted_l0s, seeds)
    about: dict[str, Any] = {
        "command": f"{results.COMMAND} --widths {widths} --l0s {l0s} --seeds {seeds} --steps {steps} --rate-steps {rate_steps} "
        f"--batch {batch} --layer {where} --contexts {contexts}"
    }
    about |= {"plan": asdict(shop.plan), "text": lab_work.identity(work), "contexts": contexts, "wanted": len(wanted)}
    about |= {"width": wanted[0].d_sae, "l0": wanted[0].l0, "missing_methods": []}
    failed: dict[str, str] = {}
    for run in tqdm(wanted, desc="runs", unit="run"):
        try:
            row = shop.do(run)
            tqdm.write(f"{run.id}: FVU {row['fvu']:.3f}, nonlinear {row['fvu_nonlinear']:.3f}, L0 {row['l0']:.1f}")
        except FloatingPointError as error:  # the other methods need not wait for this one
            failed[run.id] = str(error)
            tqdm.write(f"{run.id}: {error}")
        done = [report for other in wanted if (report := shop.report(other)) is not None]
        missing = [METHODS[name].title for name in names if name not in {report["method"] for report in done}]
        for file in (work / "dictionaries.csv", *([results.SHIPPED] if ship else [])):
            tables.write(file, done, about | {"done": len(done), "missing_methods": missing, "failed": failed})


def numbers(text: str, what: str) -> list[int]:
    """Whole numbers, separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{what} = {text!r}: give whole numbers separated by commas, such as 512,1024"
        ) from None


if __name__ == "__main__":
    typer.run(main)
