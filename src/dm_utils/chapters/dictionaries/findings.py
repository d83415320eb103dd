"""What the comparison of methods says: verdicts by stated rules, from the tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dm_utils.base.verdicts import HOLDS, UNTESTABLE, higher, verdict, within
from dm_utils.base.words import escape, how_many, number
from dm_utils.chapters.dictionaries.experiment import BASELINE
from dm_utils.maths.resampling import Estimate

Table = Any  # a pd.DataFrame: pandas' stubs know nothing of the columns that rows are read by
SAME = 0.05  # a method keeps TopK's FVU_nonlinear at equal FVU if their ratio is within this of 1


@dataclass(frozen=True)
class Claim:
    """What an abstract says of its method, as a comparison with TopK at equal width and L0: `metric` is `more` or less than TopK's."""

    method: str
    words: str
    metric: str
    more: bool = False


CLAIMS = (
    Claim("abstopk", "AbsTopK improves reconstruction fidelity", "fvu"),
    Claim("gradient", "g-SAEs are more faithful to the network's performance", "ce_recovered", more=True),
    Claim("mutual_choice", "Mutual Choice reconstructs better at equal sparsity", "fvu"),
    Claim("mutual_choice", "… with fewer dead features", "dead_fraction"),
    Claim("feature_choice", "Feature Choice reconstructs better at equal sparsity", "fvu"),
    Claim("feature_choice", "… with fewer dead features", "dead_fraction"),
    Claim("group_bias", "Group Bias Adaptation is superior to benchmark methods", "fvu"),
    Claim("itda", "ITDA incurs a performance penalty", "fvu", more=True),
    Claim("variational", "The variational SAE underperforms", "fvu", more=True),
    Claim("variational", "… with many more dead features", "dead_fraction", more=True),
)


def moved(ratio: Any) -> bool | None:
    """Whether a method's FVU_nonlinear differs from TopK's at equal FVU: the ratio's interval lies outside 1 ± `SAME`; None: unclear."""
    kept = within(Estimate.read(ratio, "value"), 1 - SAME, 1 + SAME)
    return None if kept is None else not kept


def ratios(against: Table) -> list[bool | None]:
    """`moved` for each method of `experiment.against_curve`."""
    return [moved({"value": r.ratio, "low": r.low, "high": r.high}) for r in against.itertuples()]


def kind_sentence(against: Table) -> str:
    """Does any method change the kind of error, or only its size?"""
    cases = ratios(against)
    lower = [r for r, case in zip(against.itertuples(), cases, strict=True) if case and r.ratio < 1]
    upper = [r for r, case in zip(against.itertuples(), cases, strict=True) if case and r.ratio > 1]
    open_ = sum(case is None for case in cases)
    if not len(against):
        return "No method but TopK has run yet, so nothing can be said."
    said = [f"Of {len(against)} methods, {listed(lower)} at equal FVU less of the nonlinear error than TopK"]
    said.append(f"{listed(upper)} more")
    said.append(f"{open_} cannot be told (their interval crosses a limit, or their FVU is beyond TopK's curve)")
    return (
        "; ".join(said)
        + f". That a method's nonlinear error is TopK's at equal FVU, of those that can be told: **{stays(against)}**."
    )


def listed(rows: list[Any]) -> str:
    """Who leaves, and how much of TopK's."""
    if not rows:
        return "none leaves"
    names = ", ".join(f"{escape(row.title)} ({100 * row.ratio:.0f} % of it)" for row in rows)
    return f"{names} {'leaves' if len(rows) == 1 else 'leave'}"


def stays(against: Table) -> str:
    """The verdict on "FVU_nonlinear is what TopK's is at equal FVU": a case per method of which `moved` can tell."""
    return verdict(not case for case in ratios(against) if case is not None)


def judged(claim: Claim, methods: Table) -> str:
    """A claim's verdict: the two intervals over text are apart, in the claimed order; untestable where they overlap or one is missing.

    A share of dead latents has no interval over text: its mean over seeds, plus or minus its scatter, stands for one.
    """
    by_name = methods.set_index("method")
    if not {claim.method, BASELINE} <= set(by_name.index):
        return UNTESTABLE
    mine, other = (read(by_name.loc[name], claim.metric) for name in (claim.method, BASELINE))
    return verdict([higher(mine, other) if claim.more else higher(other, mine)])


def read(row: pd.Series, metric: str) -> Estimate:
    """A metric's estimate, or its mean ± scatter where it has no interval."""
    if f"{metric}_low" in row:
        return Estimate.read(row, metric)
    spread = 0.0 if pd.isna(row[f"{metric}_sd"]) else float(row[f"{metric}_sd"])
    return Estimate(float(row[metric]), float(row[metric]) - spread, float(row[metric]) + spread)


def claims(methods: Table) -> pd.DataFrame:
    """Each paper's headline, what it becomes here, and its verdict."""
    by_name, rows = methods.set_index("method"), []
    for claim in CLAIMS:
        values = [
            number(float(by_name.loc[name, claim.metric])) if name in by_name.index else "not run"
            for name in (claim.method, BASELINE)
        ]
        rows.append((claim.words, f"{claim.metric}: {values[0]}; TopK {values[1]}", judged(claim, methods)))
    return pd.DataFrame(rows, columns=["The abstract says", "Here, at equal width and L0", "Verdict"])


def prices(methods: Table) -> pd.DataFrame:
    """Who wins, and what it costs beside TopK: one row per method, in the order of FVU."""
    base = methods[methods["method"] == BASELINE]
    unit = {
        name: float(base[name].iloc[0]) if len(base) else float("nan") for name in ("train_seconds", "encode_flops")
    }
    times = {name: methods[name] / one for name, one in unit.items()}
    view = pd.DataFrame({"Method": methods["title"], "L0": methods["l0"].round(1), "seeds": methods["seeds"]})
    names = {
        "fvu": "FVU",
        "fvu_nonlinear": "FVU nonlinear",
        "linear_share": "linear share",
        "ce_recovered": "CE recovered",
    }
    for name, words in names.items():
        view[words] = [str(estimate) for estimate in (Estimate.read(row, name) for _, row in methods.iterrows())]
    view["dead"] = [f"{100 * share:.1f} %" for share in methods["dead_fraction"]]
    view["pursuit takes off FVU"] = [
        "–" if pd.isna(row.fvu_pursued) else f"{100 * (1 - row.fvu_pursued / row.fvu):.0f} %"
        for row in methods.itertuples()
    ]
    view["training time, × TopK"] = times["train_seconds"].round(1)
    return view.assign(**{"encode FLOPs, × TopK": times["encode_flops"].round(1)})


def winner(methods: Table) -> str:
    """The lowest FVU, the lowest FVU_nonlinear and the most CE recovered at the headline's L0, and what the first costs."""
    view, comparable = prices(methods), methods[near_headline(methods)]
    if comparable.empty:
        return "No method has the wanted L0 yet."
    best = comparable.loc[comparable["fvu"].idxmin()]
    price = view.loc[best.name]
    least = comparable.loc[comparable["fvu_nonlinear"].idxmin(), "title"]
    most = comparable.loc[comparable["ce_recovered"].idxmax(), "title"]
    return (
        f"Among the methods within a tenth of the median L0, {escape(best['title'])} leaves the least FVU, at "
        f"{price['training time, × TopK']:g} times TopK's training time and {price['encode FLOPs, × TopK']:g} times its FLOPs to "
        f"encode; {escape(least)} leaves the least FVU nonlinear, {escape(most)} recovers most of the cross-entropy. Times are "
        "processor seconds of one machine that did other work, too."
    )


def near_headline(methods: Table) -> pd.Series:
    """Which methods have a measured L0 within a tenth of the median: the others cannot be compared at equal L0."""
    return (methods["l0"] / methods["l0"].median() - 1).abs() <= 0.1


def afa_sentence(against: Table) -> str:
    """top-AFA sets its own L0, so it is held against TopK's FVU at that L0."""
    mine = against[against["method"] == "top_afa"]
    if mine.empty or pd.isna(mine["ratio_l0"].iloc[0]):
        return "top-AFA chooses its own L0, and TopK has not run near it here, so the two cannot be compared: **untestable here**."
    ratio = float(mine["ratio_l0"].iloc[0])
    return f"top-AFA chooses its own L0; at that L0 it leaves {ratio:.2f} times the FVU of TopK (interpolated)."


def what_ran(table: Table, about: Mapping[str, Any]) -> str:
    """Which runs exist, on how many tokens, and which are missing."""
    seeds = table.groupby(["method", "d_sae", "l0_wanted"])["seed"].nunique().max()
    tokens = table["tokens"].max()
    missing = about.get("missing_methods", [])
    still = f" Not run yet: {', '.join(escape(name) for name in missing)}." if missing else ""
    widths = ", ".join(f"{width:,}" for width in sorted(table["d_sae"].unique()))
    return (
        f"{about['done']} of {about['wanted']} runs are shipped: {table['method'].nunique()} methods, width {widths}, up to {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}, layer {table['layer'].iloc[0]}, at most {tokens:,} training tokens each, measured on "
        f"{about['contexts']} contexts that none of them saw.{still}"
    )


def other_profile(name: str) -> str:
    """What the chapter says on a profile that is not the lab."""
    if name == "lab":
        return ""
    return "Dictionaries are trained here on the lab only, since training needs text that is the same for all: these results are the lab's."


def lessons(methods: Table, against: Table) -> list[str]:
    """What was learned, as sentences."""
    found = claims(methods)
    holds = int((found["Verdict"] == HOLDS).sum())
    tested = int((found["Verdict"] != UNTESTABLE).sum())
    share = how_many(holds, tested) if tested else "none"
    said = f"Of {len(found)} claims of the abstracts, {tested} can be judged here, and of these {share} hold."
    return [kind_sentence(against), winner(methods), afa_sentence(against), said]
