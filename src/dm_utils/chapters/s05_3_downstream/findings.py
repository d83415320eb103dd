"""What Section 5.3's table says: sentences, and a verdict on each of its claims."""

from __future__ import annotations

import pandas as pd

from dm_utils.base.names import PART_NAMES
from dm_utils.base.verdicts import above, verdict, within
from dm_utils.maths.tables import estimates

REASONABLE = 0.1  # a prediction is reasonable within this of what is recovered
SHARES = {"share_norm": "share of norm", "share_variance": "share of variance"}
LOSSES = {"ce": "cross-entropy", "kl": "KL"}
INTERACT = 1.02  # what the parts recover adds up to more than this where each makes up for the other's absence


def reasonable(table: pd.DataFrame, share: str) -> list[bool | None]:
    """Whether a share of the size predicts what a part recovers of the cross-entropy, one case per SAE and part.

    True where the whole interval lies within `REASONABLE` of the prediction, False where none of it does.
    """
    cases: list[bool | None] = []
    for part in ("linear", "nonlinear"):
        recovered = estimates(table, f"ce_recovered_{part}")
        predicted = table[f"{share}_{part}"]
        cases += [within(r, p - REASONABLE, p + REASONABLE) for r, p in zip(recovered, predicted, strict=True)]
    return cases


def count(cases: list[bool | None]) -> str:
    """How often a claim stands, fails and cannot be told."""
    return f"stands in {cases.count(True)} of {len(cases)} cases, fails in {cases.count(False)}"


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """A verdict on each claim of Section 5.3, from the cross-entropy.

    A size is a reasonable prediction by `reasonable`. A part recovers more than expected where its excess over its share of the
    variance lies above 0 with its whole interval; that the excess is LinearError's own, where it exceeds NonlinearError's likewise.
    """
    rows = []
    for share, words in SHARES.items():
        off = [
            (table[f"ce_recovered_{part}"] - table[f"{share}_{part}"]).abs().mean() for part in ("linear", "nonlinear")
        ]
        cases = reasonable(table, share)
        said = f"mean distance {sum(off) / 2:.3f}; {count(cases)}"
        rows.append((f"The {words} is, for the most part, a reasonable prediction", said, verdict(cases)))
    beyond = {
        "linear": "LinearError contributes possibly slightly more than expected",
        "nonlinear": "(not asked) NonlinearError contributes more than expected",
        "difference": "(not asked) LinearError exceeds its share by more than NonlinearError does",
    }
    for name, claim in beyond.items():
        cases = [above(excess, 0) for excess in estimates(table, f"ce_excess_{name}")]
        rows.append((claim, f"{table[f'ce_excess_{name}'].mean():+.3f} on average; {count(cases)}", verdict(cases)))
    return pd.DataFrame(rows, columns=["The paper", "This run", "Verdict"])


def predictions(table: pd.DataFrame) -> pd.DataFrame:
    """How well the size of a part predicts what it recovers, in numbers: one row per part and loss."""
    rows = []
    for part in ("linear", "nonlinear"):
        for loss, words in LOSSES.items():
            found = table[f"{loss}_recovered_{part}"]
            row = {"part": PART_NAMES[part], "loss": words, "recovered": f"{found.min():.2f} to {found.max():.2f}"}
            for share, title in SHARES.items():
                predicted = table[f"{share}_{part}"]
                inside = predicted.between(
                    table[f"{loss}_recovered_{part}_low"], table[f"{loss}_recovered_{part}_high"]
                )
                row[title] = f"{predicted.min():.2f} to {predicted.max():.2f}"
                row[f"recovered − {title}, mean"] = f"{(found - predicted).mean():+.3f}"
                row[f"{title} inside the interval"] = f"{inside.sum()} of {len(table)}"
            rows.append(row)
    return pd.DataFrame(rows)


def learned(table: pd.DataFrame) -> str:
    """What running on Sae(x) costs, which part recovers how much, and how the error compares with random changes."""
    ratio = table["ce_recovered_nonlinear"] / table["ce_recovered_linear"]
    size = table["share_variance_nonlinear"] / table["share_variance_linear"]
    excess = {part: table[f"ce_excess_{part}"].mean() for part in ("linear", "nonlinear")}
    random, difference = (table[f"kl_over_{kind}_error"] for kind in ("random", "difference"))
    cost, over_mean = table["ce_increase"], 100 * table["loss_recovered_over_mean"]
    lines = [
        f"Running on $\\text{{Sae}}(\\mathbf{{x}})$ costs {cost.min():.3f} to {cost.max():.3f} nats per token; against the mean "
        f"activation the SAEs recover {over_mean.min():.1f} to {over_mean.max():.1f} % of the loss.",
        f"NonlinearError recovers {ratio.min():.1f} to {ratio.max():.1f} times as much cross-entropy as LinearError; its share of the "
        f"variance is {size.min():.1f} to {size.max():.1f} times as large. Beyond its share, LinearError recovers "
        f"{excess['linear']:+.3f} on average and NonlinearError {excess['nonlinear']:+.3f}.",
        interaction(table),
        f"The whole error moves the prediction {random.min():.2f} to {random.max():.2f} times as far as an isotropic change of the "
        f"same length, and {difference.min():.2f} to {difference.max():.2f} times as far as a difference of activations.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def interaction(table: pd.DataFrame) -> str:
    """Whether the parts make up for each other: what they recover of the KL adds up to more than `INTERACT` on average."""
    total = table["kl_recovered_linear"] + table["kl_recovered_nonlinear"]
    alone = "each makes up for some of the other's absence" if total.mean() > INTERACT else "they hardly interact"
    return f"What the two parts recover adds up to {total.min():.2f} to {total.max():.2f} of the KL: {alone}."


def diagonal(power: float) -> str:
    """How the loss falls where the whole error shrinks evenly, and what a quadratic loss would and would not give."""
    return (
        f"Along the diagonal, where the whole error shrinks evenly, the loss falls about like its length to the power {power:.2f}; a "
        "quadratic loss gives 2. Even then shares of the variance need not be exact: a quadratic loss weighs each direction by its "
        "curvature, so they are exact for uncorrelated parts only if the curvature is the same in all directions, or if the "
        "covariances of the two parts are proportional."
    )
