"""What the abstracts say of their methods, as comparisons with TopK, and whether two methods are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dm_utils.base.verdicts import UNTESTABLE, higher, verdict
from dm_utils.base.words import number
from dm_utils.chapters.dictionaries.experiment import BASELINE
from dm_utils.chapters.dictionaries.views import NAMES
from dm_utils.maths.resampling import Estimate

Table = Any  # a pd.DataFrame: pandas' stubs know nothing of the columns that rows are read by


@dataclass(frozen=True)
class Claim:
    """What an abstract says of its method, as a comparison with TopK at equal width and L0: `metric` is `more` or less than TopK's."""

    method: str
    words: str
    metric: str
    more: bool = False


CLAIMS = (
    Claim("batchtopk", "BatchTopK outperforms TopK in reconstruction", "fvu"),
    Claim("jumprelu", "JumpReLU reconstructs best at a given sparsity", "fvu"),
    Claim("matryoshka", "Matryoshka trades some reconstruction away", "fvu", more=True),
    Claim("abstopk", "AbsTopK improves reconstruction fidelity", "fvu"),
    Claim("abstopk", "… and enhances interpretability", "rules", more=True),
    Claim("gradient", "g-SAEs are more faithful to the network's performance", "ce_recovered", more=True),
    Claim("mutual_choice", "Mutual Choice reconstructs better at equal sparsity", "fvu"),
    Claim("mutual_choice", "… with fewer dead features", "dead_fraction"),
    Claim("feature_choice", "Feature Choice reconstructs better at equal sparsity", "fvu"),
    Claim("feature_choice", "… with fewer dead features", "dead_fraction"),
    Claim("group_bias", "Group Bias Adaptation is superior to benchmark methods", "fvu"),
    Claim("itda", "ITDA incurs a performance penalty", "fvu", more=True),
    Claim("itda", "… and is trained in less time", "train_seconds"),
    Claim("variational", "The variational SAE underperforms", "fvu", more=True),
    Claim("variational", "… with many more dead features", "dead_fraction", more=True),
)


def apart(metric: str, mine: pd.Series, other: pd.Series) -> bool | None:
    """Whether a method's metric is higher than another's, over text and over seeds; None where either overlaps, or seeds are lacking.

    A metric without an interval over text is judged by its seeds alone.
    """
    if min(mine["seeds"], other["seeds"]) < 2:
        return None
    cases = {higher(over_seeds(mine, metric), over_seeds(other, metric))}
    if f"{metric}_low" in mine:
        cases.add(higher(Estimate.read(mine, metric), Estimate.read(other, metric)))
    return cases.pop() if len(cases) == 1 else None


def over_seeds(row: pd.Series, metric: str) -> Estimate:
    """A metric's mean over seeds, with their extremes in the place of an interval."""
    return Estimate(row[metric], row[f"{metric}_least"], row[f"{metric}_most"])


def judged(claim: Claim, methods: Table) -> str:
    """A claim's verdict: apart in the claimed order over text and over seeds; untestable where not apart, not run, or not at that L0."""
    by_name = methods[methods["equal_l0"]].set_index("method")
    if not {claim.method, BASELINE} <= set(by_name.index):
        return UNTESTABLE
    above = apart(claim.metric, by_name.loc[claim.method], by_name.loc[BASELINE])
    return verdict([above if claim.more or above is None else not above])


def judge(methods: Table) -> pd.DataFrame:
    """Each paper's headline, what it becomes here, and its verdict."""
    by_name, rows = methods.set_index("method"), []
    for claim in CLAIMS:
        values = [
            number(float(by_name.loc[name, claim.metric])) if name in by_name.index else "not run"
            for name in (claim.method, BASELINE)
        ]
        rows.append((claim.words, f"{NAMES[claim.metric]}: {values[0]}; TopK {values[1]}", judged(claim, methods)))
    return pd.DataFrame(rows, columns=["The abstract says", "Here, at equal width and L0", "Verdict"])
