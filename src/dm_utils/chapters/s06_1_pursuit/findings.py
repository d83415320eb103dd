"""What Section 6.1 says of this run: each claim with its verdict, and what was learned, from the tables alone."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dm_utils.base.verdicts import above, higher, verdict, within
from dm_utils.base.words import span
from dm_utils.engine.breakdown import WidthFits
from dm_utils.maths.tables import estimates

STEADY = 0.05  # FVU nonlinear is "almost constant" if it changes by less than this share of its value
PAPER_DROP = (0.03, 0.05)  # "decreases the total FVU by 3 to 5%"


def percent(values: pd.Series) -> str:
    """The range of shares as percentages."""
    return span(values, ".0f", " %")


def change(drops: pd.Series) -> str:
    """The range of relative drops as signed changes in per cent: a negative one is a fall."""
    low, high = (f"{-100 * end:+z.0f}" for end in (drops.max(), drops.min()))
    return f"{low} %" if low == high else f"{low} to {high} %"


def lowers_fvu(changed: pd.DataFrame) -> str:
    """Pursuit lowers FVU: for each SAE, the interval of the drop lies above 0."""
    return verdict(above(drop, 0) for drop in estimates(changed, "fvu_drop"))


def by_3_to_5_percent(changed: pd.DataFrame, metric: str) -> str:
    """FVU falls by 3 to 5 %, read as a drop (`fvu_drop`) or a share (`fvu_drop_relative`): the interval lies in that range."""
    return verdict(within(drop, *PAPER_DROP) for drop in estimates(changed, metric))


def keeps_nonlinear(changed: pd.DataFrame) -> str:
    """FVU nonlinear stays almost constant: the interval of its relative drop lies within ± `STEADY`."""
    return verdict(within(drop, -STEADY, STEADY) for drop in estimates(changed, "fvu_nonlinear_drop_relative"))


def removes_linear(changed: pd.DataFrame) -> str:
    """What pursuit removes is mostly linear error: the interval of the linear share of the drop lies above one half."""
    return verdict(above(share, 0.5) for share in estimates(changed, "linear_drop_share"))


def weights_alone(changed: pd.DataFrame, best: pd.DataFrame) -> str:
    """Whether best weights on the encoder's own latents reach more than half of pursuit's drop: for every SAE, some or none."""
    reached = (best["fvu_drop"] / changed["fvu_drop"]) > 0.5
    return "most" if reached.all() else "the smaller part" if not reached.any() else "at some widths most"


def statements(changed: pd.DataFrame, best: pd.DataFrame, own: pd.DataFrame, pursued: pd.DataFrame) -> pd.DataFrame:
    """The claims of Section 6.1, what this run found, and the verdict by the rules above.

    `changed` and `best` are `experiment.changes` for pursuit and for best weights; `own` and `pursued` the metrics.
    """
    weights = best["fvu_drop"] / changed["fvu_drop"]
    fvu, nonlinear = changed["fvu_drop_relative"], changed["fvu_nonlinear_drop_relative"]
    absolute = span(100 * changed["fvu_drop"], ".1f")
    linear = (
        f"{percent(changed['linear_drop_share'])} of the drop of FVU is linear; best weights on the same latents reach "
        f"{percent(weights)} of the drop; ‖Sae(x)‖/‖x‖ from {own['norm_ratio'].mean():.3f} to "
        f"{pursued['norm_ratio'].mean():.3f}"
    )
    rows = [
        ("Pursuit lowers FVU", f"by {percent(fvu)} of its value", lowers_fvu(changed)),
        ("… by 3 to 5 points of variance", f"by {absolute} points", by_3_to_5_percent(changed, "fvu_drop")),
        ("… or by 3 to 5 % of its value", f"by {percent(fvu)}", by_3_to_5_percent(changed, "fvu_drop_relative")),
        ("FVU nonlinear stays almost constant", f"it changes by {change(nonlinear)}", keeps_nonlinear(changed)),
        ("Pursuit removes easy linear errors such as shrinkage", linear, removes_linear(changed)),
    ]
    return pd.DataFrame(rows, columns=["The paper, on Gemma 2 9B", "This run", "Verdict"])


def drops(changed: pd.DataFrame, best: pd.DataFrame, shared_support: pd.Series) -> pd.DataFrame:
    """How better weights, and pursuit, change each SAE's FVU and FVU nonlinear, as a reader's table."""
    view = pd.DataFrame({"SAE": changed["sae_id"]})
    for words, table in (("best weights", best), ("pursuit", changed)):
        for metric, title in (("fvu_drop_relative", "FVU"), ("fvu_nonlinear_drop_relative", "FVU nonlinear")):
            found = estimates(table, metric)
            view[f"{title}, {words}"] = [
                f"{-100 * e.value:+.1f} % [{-100 * e.high:+.1f}, {-100 * e.low:+.1f}]" for e in found
            ]
    view["of the drop of FVU, linear"] = [f"{100 * share:.0f} %" for share in changed["linear_drop_share"]]
    view["latents shared with the encoder"] = [f"{100 * share:.0f} %" for share in shared_support]
    return view


def fit_table(fits: Mapping[str, WidthFits]) -> pd.DataFrame:
    """The fits over width, one row per encoder."""
    rows = []
    for encoder, fit in fits.items():
        level = fit.fvu_nonlinear_level
        low, high = 100 * level.per_doubling.low, 100 * level.per_doubling.high
        row = {"encoder": encoder, "FVU nonlinear, mean over widths": str(level.level)}
        row |= {"its change per doubling": f"{100 * level.per_doubling.value:+.1f} % [{low:+.1f}, {high:+.1f}]"}
        row |= {"constant c of the power law": str(fit.fvu.constant)}
        rows.append(row | {"c is": "not identified" if fit.fvu.note else "identified"})
    return pd.DataFrame(rows)


def needs_learning(controls: pd.DataFrame) -> str:
    """What pursuit explains needs learned directions: at each width, the interval of the random dictionary's FVU lies above
    that of the trained one's."""
    by_width = controls.sort_values("d_sae")
    random, trained = (estimates(by_width[by_width["case"] == case], "fvu") for case in ("random", "trained"))
    return verdict(higher(one, other) for one, other in zip(random, trained, strict=True))


def learned(controls: pd.DataFrame) -> str:
    """What a random dictionary of the same size and covariance leaves, against the trained one, and the verdict."""
    fvu = controls.pivot(index="d_sae", columns="case", values="fvu")
    times = fvu["random"] / fvu["trained"]
    return (
        f"As many random atoms explain {percent(1 - fvu['random'])} of the variance by pursuit: they carry the covariance of x, "
        f"and a search among many directions fits much. But they leave {random_times(controls)} times the FVU of the trained "
        f"dictionary, which explains {percent(1 - fvu['trained'])}: of what covariance and search leave, learned directions "
        f"take off {percent(1 - 1 / times)}. That pursuit needs learned directions: **{needs_learning(controls)}**."
    )


def random_times(controls: pd.DataFrame) -> str:
    """How many times the FVU of the trained dictionary a random one leaves."""
    fvu = controls.pivot(index="d_sae", columns="case", values="fvu")
    return span(fvu["random"] / fvu["trained"], ".1f")


def lessons(changed: pd.DataFrame, best: pd.DataFrame, pursued: pd.DataFrame, controls: pd.DataFrame) -> list[str]:
    """What was learned, as sentences."""
    nonlinear = changed["fvu_nonlinear_drop_relative"]
    return [
        f"With the decoder frozen and as many latents per token, pursuit changes FVU by {change(changed['fvu_drop_relative'])} "
        f"and FVU nonlinear by {change(nonlinear)}. That the nonlinear part stays: **{keeps_nonlinear(changed)}**. In points "
        f"of variance the drop of FVU is {span(100 * changed['fvu_drop'], '.1f')}, beside the paper's 3 to 5.",
        f"Best weights on the encoder's own latents take {percent(best['fvu_drop_relative'])} off FVU, "
        f"{weights_alone(changed, best)} of what pursuit gains: the rest is which latents are chosen. Pursuit shares "
        f"{percent(pursued['shared_support'])} of its latents with the encoder.",
        f"Pursuit explains what it does by learned directions, not by covariance and search alone: **{needs_learning(controls)}** "
        f"(random atoms leave {random_times(controls)} times the FVU).",
    ]


def atoms_per_dimension(here: float, paper: float) -> str:
    """How far this run's L0/d is from the paper's main setting."""
    return (
        f"Atoms per dimension: {here:.3f} here, {paper:.3f} in the paper's main setting, {here / paper:.1f} times as many. "
        "The more atoms per dimension, the more a search can fit, so encoder error need not be a narrow slice in a small model."
    )
