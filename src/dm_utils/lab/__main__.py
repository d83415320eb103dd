"""``python -m dm_utils.lab``: train the lab from scratch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def main(
    work: Annotated[Path, typer.Option(help="Work folder; running again goes on from what it holds.")] = Path("_lab"),
    size: Annotated[int | None, typer.Option(min=32, help="Train this rung of the ladder (d_model) instead.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="A tiny lab in seconds, to test the recipe.")] = False,
    device: Annotated[Device, typer.Option(help="auto takes CUDA where there is one.")] = Device.auto,
    tokens: Annotated[int | None, typer.Option(min=1, help="Training tokens of the language model.")] = None,
    keep_model: Annotated[bool, typer.Option("--keep-model", help="Train SAEs on the shipped language model.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of the headline SAEs; the first one ships.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="SAEs trained at the same time on the CPU.")] = 2,
    install: Annotated[bool, typer.Option("--install", help="Replace the shipped weights when all is well.")] = False,
) -> None:
    """Train the lab's language model and its SAEs from scratch, or go on where an interrupted run stopped.

    The result is a folder of weights with its manifest inside the work folder. The weights that ship with the package
    are touched only with --install, and only if the health checks pass.
    """
    from dataclasses import replace

    import torch

    from dm_utils.lab import manifest, pipeline, suite

    for other, given in (("--install", install), ("--keep-model", keep_model), ("--seeds", seeds > 1)):
        if fast and given:
            raise typer.BadParameter("--fast makes a toy from nothing; drop one of the two.", param_hint=other)
        if size and given:
            raise typer.BadParameter("--size trains a rung of the ladder; drop one of the two.", param_hint=other)
    where = device.value if device is not Device.auto else ("cuda" if torch.cuda.is_available() else "cpu")
    if size:
        return train_rung(work, size, fast, where, workers)
    recipe = pipeline.fast_lab() if fast else pipeline.LabRecipe()
    if tokens is not None:
        recipe = replace(recipe, model=replace(recipe.model, tokens=tokens))
    if keep_model:
        pipeline.adopt_model(work)
    recipe = replace(recipe, suite=(*recipe.suite, *(spec.id for spec in suite.reseeded(seeds))))
    folder = pipeline.train_lab(work, recipe, where, workers)
    problems = pipeline.failed_health(manifest.read_manifest(folder)["saes"])
    for problem in problems:
        typer.echo(f"health: {problem}", err=True)
    typer.echo(f"Weights, {manifest.read_manifest(folder)['total_bytes'] / 1e6:.1f} MB, verified: {folder}")
    if install:
        if problems:
            raise typer.Exit(1)
        typer.echo(f"Installed: {manifest.install(folder)}")


def train_rung(work: Path, size: int, fast: bool, device: str, workers: int) -> None:
    """Train the model and the SAEs of one rung of the ladder, and say what measures them."""
    from dm_utils.lab import ladder, pipeline

    try:
        recipe = ladder.fast_rung(size) if fast else ladder.rung(size)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from None
    pipeline.train(work, recipe, device, workers)
    typer.echo(f"Trained: {work}. To measure it: python -m dm_utils.chapters.ladder.measure {work}")


if __name__ == "__main__":
    typer.run(main)
