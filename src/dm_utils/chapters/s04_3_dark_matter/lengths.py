"""The headline SAEs of every width, trained for fewer and for more steps: does the constant c depend on that, or on dead latents?

python -m dm_utils.chapters.s04_3_dark_matter.lengths _build/lab     # trains, measures, and replaces the tables that ship

What ships of these SAEs are their measurements, not their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import typer

from dm_utils.base.errors import ParameterError
from dm_utils.base.files import write_atomic
from dm_utils.engine.breakdown import WidthFits, fit_study
from dm_utils.engine.study import Study
from dm_utils.lab import pipeline, suite, tables
from dm_utils.lab.work import prepare
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.scaling import percentiles
from dm_utils.world.profiles import load_profile

if TYPE_CHECKING:
    from dm_utils.world.sae_ref import SaeRef

LENGTHS = (400, 800, 3200)
"""Optimiser steps beside those of the recipe, in the order of training."""
L0 = 4
SAES, CONSTANTS = tables.shipped("lengths"), tables.shipped("length_constants")


def shipped() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of `measured`: a row per SAE, and a row per training length that has every width."""
    return pd.read_csv(SAES), pd.read_csv(CONSTANTS).fillna({"note": ""})


def recipe_at(steps: int) -> pipeline.LabRecipe:
    """The lab's recipe for the TopK SAEs of its main layer at `L0`, narrowest first, with another number of steps.

    Warm-up, decay, annealing and resampling are shares of the steps: they stretch with them.
    """
    lab, kind = pipeline.LabRecipe(), ("resid", suite.FACE, "topk", L0)
    series = (spec for spec in suite.full_suite() if (spec.component, spec.layer, spec.architecture, spec.l0) == kind)
    return replace(lab, suite=tuple(spec.id for spec in series), saes=replace(lab.saes, steps=steps))


def folder_of(work: Path, steps: int) -> Path:
    """Where the SAEs of a training length stand in the lab's work folder."""
    return work / f"steps_{steps}"


def train(work: Path, recipe: pipeline.LabRecipe) -> None:
    """Train the SAEs of a recipe that its folder lacks, one after the other, on the activations of the lab's work folder."""
    folder = folder_of(work, recipe.saes.steps)
    folder.mkdir(exist_ok=True)
    link = folder / "activations"
    if not link.exists():
        link.symlink_to((work / link.name).resolve(), target_is_directory=True)
    pipeline.train_suite(folder, recipe, workers=1)


def studies_of(work: Path, standard: int) -> dict[int, Study]:
    """A study of each training length whose SAEs the work folder holds; at the recipe's own steps, of the SAEs that ship."""
    done = [path for path in work.glob("steps_*") if any(path.glob("reports/*.json"))]
    found = {int(path.name.removeprefix("steps_")): {"releases": str(path / "saes")} for path in done}
    return {steps: Study(load_profile("lab", **given)) for steps, given in sorted((found | {standard: {}}).items())}


def series(study: Study) -> list[SaeRef]:
    """The TopK SAEs of a study near its L0, one of each width."""
    return study.saes(near_l0=study.profile.near_l0, architecture="topk")


def measured(studies: Mapping[int, Study], recipe: pipeline.LabRecipe) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What ships, from a study per training length; the recipe's own is among them.

    Returns
    -------
    saes : one row per SAE, `sae_id, steps, tokens, d_sae, l0, dead_fraction`, FVU and FVU_nonlinear with intervals.
    constants : see `constants`; a length that lacks a width of the recipe's is left out, for its c would be another extrapolation.

    Raises
    ------
    ParameterError : no other length has every width.
    """
    standard, refs = recipe.saes.steps, {steps: series(study) for steps, study in studies.items()}
    ends = [f"{metric}{end}" for metric in ("fvu", "fvu_nonlinear") for end in ("", "_low", "_high")]
    widths = {steps: {ref.d_sae for ref in some} for steps, some in refs.items()}
    whole = [steps for steps in studies if widths[steps] == widths[standard]]
    if len(whole) < 2:
        raise ParameterError(
            "no length beside the recipe's has every width of it: let the command train them to the end"
        )
    rows = [
        study.measure(refs[steps]).assign(steps=steps, tokens=steps * recipe.saes.batch_tokens)
        for steps, study in studies.items()
    ]
    saes = pd.concat(rows, ignore_index=True)[["sae_id", "steps", "tokens", "d_sae", "l0", "dead_fraction", *ends]]
    return saes.round(6), constants({steps: fit_study(studies[steps], refs[steps]) for steps in whole}, standard)


def constants(fits: Mapping[int, WidthFits], standard: int) -> pd.DataFrame:
    """One row per training length: c and h of Section 4.3, and how far c lies above that at the recipe's steps (`change`)."""
    rows = []
    for steps, fit in fits.items():
        found = {"constant": fit.fvu.constant, "level": fit.fvu_nonlinear_level.level}
        if steps != standard:
            found["change"] = change(fit, fits[standard])
        columns = {name: value for key, one in found.items() for name, value in one.columns(key).items()}
        rows.append({"steps": steps, **columns, "note": fit.fvu.note})
    return pd.DataFrame(rows).round(6)


def change(now: WidthFits, then: WidthFits, seed: int = 0) -> Estimate:
    """How far one constant lies above another, their draws taken as independent.

    Both share the text, which this forgets: the interval is rather too wide. The scatter of the SAEs is by far the larger part of it.
    """
    others = np.random.default_rng(seed).permutation(then.fvu.draws.constant)
    return percentiles(now.fvu.constant.value - then.fvu.constant.value, now.fvu.draws.constant - others)


def main(
    work: Annotated[
        Path, typer.Argument(file_okay=False, help="The work folder of `make lab`; what it lacks is made.")
    ],
    steps: Annotated[list[int] | None, typer.Option(min=1, help="A training length; may be given again.")] = None,
    training: Annotated[bool, typer.Option("--train/--no-train", help="Or only measure what is there.")] = True,
) -> None:
    """Train the headline SAEs at other lengths, as far as they are missing, measure them, and replace the tables that ship."""
    if training:
        prepare(work, suite.FACE)
        for n in steps or LENGTHS:
            train(work, recipe_at(n))
    recipe = pipeline.LabRecipe()
    for file, table in zip((SAES, CONSTANTS), measured(studies_of(work, recipe.saes.steps), recipe), strict=True):
        write_atomic(file, table.to_csv(index=False).encode())
        typer.echo(f"{len(table)} rows: {file}")


if __name__ == "__main__":
    typer.run(main)
