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
    widths: Annotated[str, typer.Option(help="Comma-separated; the first is the headline's.")] = "1024,512",
    l0s: Annotated[str, typer.Option(help="Comma-separated; the first is the headline's.")] = "16,8",
    seeds: Annotated[int, typer.Option(min=1, help="At the headline's width and L0.")] = 3,
    steps: Annotated[int, typer.Option(min=20, help="Optimiser steps.")] = 1000,
    batch: Annotated[int, typer.Option(min=16, help="Tokens in a step.")] = 2048,
    layer: Annotated[int | None, typer.Option(help="The lab's own unless given.")] = None,
    contexts: Annotated[int, typer.Option(min=16, help="Contexts of the evaluation text that measure.")] = 256,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    ship: Annotated[
        bool, typer.Option("--ship", help="Write the table into the package, too, after every run.")
    ] = False,
) -> None:
    """Train every method's dictionary on the lab's text, measure it, and write one row per run.

    The order is what matters most first: every method at the first width and L0 with one seed, then TopK at half and twice the L0,
    more seeds, other sizes. Each run is kept; a run that was killed goes on from its last checkpoint.
    """
    import torch
    from tqdm.auto import tqdm

    from dm_utils.chapters.dictionaries import data, results, runs
    from dm_utils.dictionaries.methods import METHODS
    from dm_utils.dictionaries.training import Plan

    torch.set_num_threads(threads)
    names = [name.strip() for name in methods.split(",") if name.strip()] or list(METHODS)
    for name in names:
        require(name, METHODS, "method")
    where = load_profile("lab").layer if layer is None else layer
    plan = Plan(
        steps=steps,
        batch=batch,
        warm_up=max(1, steps // 25),
        dead_after=max(10, steps * 3 // 20),
        revive_every=max(5, steps // 20),
    )
    data.prepare(work, where)
    shop = runs.Workshop(work, where, plan, contexts)
    wanted = list(runs.order(names, numbers(widths, "widths"), numbers(l0s, "l0s"), seeds))
    about: dict[str, Any] = {
        "command": f"{results.COMMAND} --widths {widths} --l0s {l0s} --seeds {seeds} --steps {steps} --batch {batch} --layer {where}"
    }
    about |= {"plan": asdict(plan), "text": data.identity(work), "contexts": contexts, "wanted": len(wanted)}
    about |= {"width": wanted[0].d_sae, "l0": wanted[0].l0, "missing_methods": []}
    for run in tqdm(wanted, desc="runs", unit="run"):
        row = shop.do(run)
        tqdm.write(f"{run.id}: FVU {row['fvu']:.3f}, nonlinear {row['fvu_nonlinear']:.3f}, L0 {row['l0']:.1f}")
        done = [found for other in wanted if (found := shop.report(other)) is not None]
        missing = [METHODS[name].title for name in names if name not in {found["method"] for found in done}]
        for file in (work / "dictionaries.csv", *([results.SHIPPED] if ship else [])):
            results.write(file, done, about | {"done": len(done), "missing_methods": missing})


def numbers(text: str, what: str) -> list[int]:
    """Whole numbers, separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{what} = {text!r}: give whole numbers separated by commas, such as 1024,512"
        ) from None


if __name__ == "__main__":
    typer.run(main)
