"""What the lab's tables say: how its SAEs were trained, whether they are healthy, what they cost the model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd

from dm_utils.base.words import code, label
from dm_utils.engine.suite import steps
from dm_utils.maths.resampling import Estimate

L0_OFF, DEAD = 0.1, 0.2  # how far L0 may be from its label, relatively; which share of latents may be dead


def training(table: pd.DataFrame, recipe: Mapping[str, Any]) -> str:
    """How many SAEs there are, of which kind, and the recipe that the manifest records."""
    kinds = table.groupby(["component", "architecture"]).size().rename("n").reset_index().to_dict("records")
    return (
        f"{len(table)} SAEs, each trained with SAELens for {recipe['steps']:,} steps of {recipe['batch_tokens']:,} tokens: "
        + ", ".join(f"{kind['n']} {kind['component']} {kind['architecture']}" for kind in kinds)
        + ". Their health below is measured on the evaluation text, which neither the model nor the SAEs saw in training. TopK SAEs "
        f"start from directions of the data, with at least {recipe['k_start']} active latents per token, a number that falls to the one "
        "on the label while training lasts, and latents that stay silent are pointed at what the SAE misses: one recipe for all of them."
    )


def health(table: pd.DataFrame, sweep: pd.DataFrame) -> pd.DataFrame:
    """Four requirements on the suite, what was measured, and whether each is met; `sweep` has a column `near_l0`.

    FVU has to fall at every step between neighbours of the sweep; every SAE's L0 has to be within 10 % of its label, and less
    than 20 % of its latents dead.
    """
    wider, denser = steps(sweep, "fvu", "d_sae", "near_l0"), steps(sweep, "fvu", "near_l0", "d_sae")
    off, dead = (table["l0"] / table["l0_label"] - 1).abs().max(), table["dead_fraction"].max()
    rows = [
        ("FVU falls with width at each L0", str(wider), wider.falls == wider.total),
        ("FVU falls with L0 at each width", str(denser), denser.falls == denser.total),
        ("measured L0 within 10 % of its label", f"largest difference {100 * off:.1f} %", off <= L0_OFF),
        ("dead latents under 20 % of every SAE", f"largest share {100 * dead:.1f} %", dead < DEAD),
    ]
    checks = pd.DataFrame(rows, columns=["Requirement", "Measured", "Met"])
    return checks.assign(Met=checks["Met"].map({True: "yes", False: "NO"}))


def recovered(at_site: pd.DataFrame, original: Estimate, mean: Estimate, n_splice: int) -> str:
    """How much of the way from the mean activation to the model itself SAEs bring back; `value` is their cross-entropy."""
    share = 100 * (mean.value - at_site["value"]) / (mean.value - original.value)
    ordered = at_site.assign(share=share).sort_values("share")
    worst, best = ordered.iloc[0], ordered.iloc[-1]
    return (
        f"On these {n_splice} contexts the model loses {original} nats per token; with the mean activation in place of "
        f"$\\mathbf{{x}}$, {mean}. The SAEs recover between {worst['share']:.1f} % ({code(worst['sae_id'])}) and "
        f"{best['share']:.1f} % ({code(best['sae_id'])}) of that distance."
    )


def learned(then: Mapping[str, float], checks: pd.DataFrame, at_site: pd.DataFrame, original: Estimate) -> str:
    """The model's loss, the requirements that are not met, and what SAEs cost when they are spliced in."""
    failed, cost = checks.loc[checks["Met"] == "NO", "Requirement"].tolist(), at_site["value"] - original.value
    return (
        f"The model's loss on unseen documentation is {then['model_nats']:.2f} nats per token, against "
        f"{then['trigram_nats']:.2f} for trigrams and {then['unigram_nats']:.2f} for frequencies alone. "
        + ("All requirements on the SAEs are met. " if not failed else f"Not met: {'; '.join(failed)}. ")
        + f"Spliced in, the SAEs at layer {at_site['layer'].iloc[0]} cost {cost.min():.2f} to {cost.max():.2f} nats per token."
    )


def over_seeds(rows: pd.DataFrame, metric: str) -> str:
    """How a metric (rows of one, `seeds.beside`) scatters over training seeds, beside its interval over text and its steps in width.

    A step from one width to the next is apart in both where every seed's value lies on the same side of every seed's at the next
    width, and so does every interval.
    """
    some = rows[rows["metric"] == metric]
    widths = [group for _, group in some.groupby("d_sae") if group["seed"].nunique() > 1]
    scatter = max((float(group["value"].max() - group["value"].min()) for group in widths), default=0.0)
    text = float((some["high"] - some["low"]).mean())
    pairs = list(pairwise(widths))
    apart = sum(one["low"].min() > two["high"].max() or one["high"].max() < two["low"].min() for one, two in pairs)
    return (
        f"{label(metric)}: at most {scatter:.4f} between seeds at one width, where an interval over text is {text:.4f} wide on average; "
        f"{apart} of {len(pairs)} steps from one width to the next are apart in both."
    )
