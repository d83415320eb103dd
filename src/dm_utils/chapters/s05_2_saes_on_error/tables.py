"""What Section 5.2 shows of its SAEs, as tables: the parts, the grid of learning rates, accuracies, every tested latent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from dm_utils.chapters.s05_2_saes_on_error.charts import TARGET_NAMES
from dm_utils.chapters.s05_2_saes_on_error.experiment import ErrorSaeStudy
from dm_utils.chapters.s05_2_saes_on_error.streams import ERROR_PARTS
from dm_utils.chapters.s05_2_saes_on_error.training import TARGETS
from dm_utils.engine.autointerp import Scores, accuracy, balanced
from dm_utils.engine.text_windows import Activity, marked

OWN = "latents of its own SAE"
DEALT = "the same, explanations dealt to the wrong latents"
TWIN = "latents of the SAE trained on its Gaussian twin"
Key = tuple[str, str]  # an error part and one of OWN, DEALT, TWIN


def parts(experiment: ErrorSaeStudy, linear_share: float) -> pd.DataFrame:
    """Share of the error's variance and effective dimensions of its two parts, and what k principal components leave."""
    rows = []
    for part, share in zip(ERROR_PARTS, (linear_share, 1 - linear_share), strict=True):
        row = {"Part of the error": TARGET_NAMES[part], "Share": share}
        row |= {"Effective dimensions": experiment.moments(part).effective_dimensions}
        rows.append(row | {f"FVU of {experiment.plan.k} components": str(experiment.dense_fvu(part))})
    return pd.DataFrame(rows)


def grid(experiment: ErrorSaeStudy) -> pd.DataFrame:
    """Validation FVU of every target (first seed) by learning rate, NaN where it was not tried, and the rate that was taken."""
    rows, rates = [], sorted(experiment.plan.learning_rates)
    for target in TARGETS:
        tuned = experiment.tuning(target)
        taken = min(tuned, key=lambda lr: tuned[lr])
        rows.append({"Trained on": TARGET_NAMES[target]} | {f"{lr:g}": tuned.get(lr, math.nan) for lr in rates})
        rows[-1] |= {"Taken": f"{taken:g}", "At an end": "yes" if taken in (rates[0], rates[-1]) else "no"}
    return pd.DataFrame(rows)


def overfit(curves: pd.DataFrame) -> pd.Series:
    """Validation minus training FVU at the end of the runs, mean over seeds, by the target's name."""
    last = curves.groupby(["target", "seed"], sort=False).tail(1)
    gap = (last["validation_fvu"] - last["train_fvu"]).groupby(last["target"], sort=False).mean()
    return gap.rename(index=TARGET_NAMES)


def tested(scores: Mapping[Key, Scores]) -> pd.DataFrame:
    """How many latents were tested, left out, or left without an answer."""
    return pd.DataFrame(
        {
            "Part": TARGET_NAMES[part],
            "Latents": kind,
            "Tested": len(s.latents),
            "Skipped": s.n_skipped,
            "Unanswered": s.n_unanswered,
        }
        for (part, kind), s in scores.items()
    )


def accuracies(scores: Mapping[Key, Scores]) -> pd.DataFrame:
    """`autointerp.accuracy` of every test, one below the other, with columns part and kind."""
    found = [accuracy(s).assign(part=part, kind=kind) for (part, kind), s in scores.items()]
    return pd.concat(found, ignore_index=True)


def latents(scores: Mapping[Key, Scores], activity: Mapping[str, Activity], vocabulary: Sequence[str]) -> pd.DataFrame:
    """Every tested latent: part, latent, explanation, balanced, silent and active accuracy, and its strongest window as text."""
    found = []
    for part in ERROR_PARTS:
        s = scores[part, OWN]
        windows = [activity[part].strongest(int(latent)) for latent in s.latents]
        text = [" ".join(marked(tokens, active > 0, vocabulary).split()) for tokens, active in windows]
        columns = {"part": part, "latent": s.latents, "explanation": s.explanations, "window": text}
        columns |= {"balanced": balanced(s), "silent": s.right[:, 0], "active": s.right[:, 1:].mean(axis=1)}
        found.append(pd.DataFrame(columns))
    return pd.concat(found, ignore_index=True)
