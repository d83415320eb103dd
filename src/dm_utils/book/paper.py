"""Every value that the paper reports, where it stands, and how a run compares with it.

The one home of the paper's numbers: chapters name a key (``paper_value="fig2.r2_error_norm"``), never a number. A value that
the paper gives only as a picture is not read off the picture.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from dm_utils.base.words import interval, label, number

if TYPE_CHECKING:
    import pandas as pd

CITATION = "Engels, Smith & Tegmark, Decomposing the Dark Matter of Sparse Autoencoders"
GEMMA_2B, GEMMA_9B = "Gemma 2 2B, layer 12", "Gemma 2 9B, layer 20"


@dataclass(frozen=True)
class Reported:
    """A value, or the two ends of a range, as the paper states it."""

    low: float
    high: float
    where: str
    says: str
    on: str = ""

    @property
    def text(self) -> str:
        """The value, or ``low..high``."""
        return f"{self.low:,g}" if self.low == self.high else f"{self.low:,g}..{self.high:,g}"


def _one(value: float, where: str, says: str, on: str = "") -> Reported:
    return Reported(value, value, where, says, on)


VALUES: dict[str, Reported] = {
    # Section 4
    "s4.n_tokens": _one(247_000, "§4", "about 247k activations: 300 contexts of 1024 tokens, positions after 200"),
    "s4.n_fit": _one(150_000, "§4", "a random subset of 150k activations fits, the other 97k evaluate"),
    "s4.1.r2_error_norm": Reported(0.70, 0.95, "§4.1", "between 70% and 95%, over every width, L0, layer and model"),
    "abstract.r2_error_norm": Reported(
        0.90, 1.0, "abstract", "more than 90% of the error's norm is linearly predictable"
    ),
    "fig3.r2_error_norm_plateau": Reported(
        0.80, 0.95, "§4.1, Fig. 3", "about 0.8 to 0.95 over the middle layers", "all models"
    ),
    "s4.2.r2_error_vector": Reported(0.15, 0.72, "§4.2", "varies widely, between 15% and 72%"),
    "abstract.r2_error_vector": _one(0.50, "abstract", "about half of the error vector is linearly predictable"),
    "s4.3.per_doubling": _one(0.0, "§4.3, Fig. 2", "FVU nonlinear is approximately constant as width grows"),
    # Section 5
    "s5.1.n_saes": _one(329, "§5.1", "the norm prediction test on 329 SAEs"),
    "s5.1.r2_x_norm": _one(1.0, "§5.1", "the squared norm of x is almost perfectly predicted"),
    "s5.2.fvu_sae_on_nonlinear": _one(0.59, "§5.2", "an SAE trained on NonlinearError reaches FVU ≈ 0.59", GEMMA_9B),
    "s5.2.fvu_sae_on_linear": _one(0.54, "§5.2", "an SAE trained on LinearError reaches FVU ≈ 0.54", GEMMA_9B),
    "s5.2.fvu_gap": _one(0.05, "§5.2", "an absolute 5 percent higher on the nonlinear part", GEMMA_9B),
    "s5.2.interpretability_gap": _one(0.05, "§5.2, Fig. 7", "linear latents are about 5% more interpretable", GEMMA_9B),
    "s5.3.excess": _one(
        0.0, "§5.3, Fig. 8", "each part costs cross-entropy in proportion to its share of the variance"
    ),
    # Section 6
    "s6.1.fvu_decrease": Reported(0.03, 0.05, "§6.1", "pursuit decreases the total FVU by 3 to 5%", GEMMA_9B),
    "s6.2.r2_nonlinear_from_sae": _one(0.50, "§6", "Sae(x) predicts 50% of the nonlinear error", GEMMA_9B),
    "s6.2.r2_nonlinear_from_previous": Reported(
        0.04, 0.14, "§6", "previous components predict 4% to 14% of it", GEMMA_9B
    ),
    "s6.2.r2_error_from_previous": Reported(
        0.06, 0.10, "§6", "previous components predict 6% to 10% of the error", GEMMA_9B
    ),
    # Appendix A
    "a1.norm_deficit": _one(0.10, "App. A.1", "reconstructions have about a 10% smaller norm than x", "Gemma Scope"),
    "a1.norm_ratio": _one(0.90, "App. A.1", "about a 10% smaller norm than x, so a ratio of about 0.9", "Gemma Scope"),
    "a1.cos_linear_x": _one(0.50, "App. A.1", "the cosine of the linear error with x is around 0.5", "Gemma Scope"),
    # Appendix B and C
    "table1.dense_from_x_noise": _one(0.9842, "Table 1", "noise on x′ with the estimated Dense", GEMMA_9B),
    "table1.introduced_from_x_noise": _one(0.1417, "Table 1", "noise on x′ with the estimated Introduced", GEMMA_9B),
    "table1.dense_from_sae_noise": _one(0.0988, "Table 1", "noise on Sae(x′) with the estimated Dense", GEMMA_9B),
    "table1.introduced_from_sae_noise": _one(
        0.9036, "Table 1", "noise on Sae(x′) with the estimated Introduced", GEMMA_9B
    ),
    "c1.rho_bernoulli": _one(1.0, "App. C.1", "scaled Bernoulli weights: perfect correlation"),
    "c1.rho_poisson": _one(0.73, "App. C.1", "Poisson weights with λ = 1: ρ = 6/√66 ≈ 0.73"),
    # Appendix D and E
    "d.n_features": _one(100_000, "App. D", "a sum of 100k random Gaussian vectors in 4000 dimensions"),
    "d.l0": _one(100, "App. D", "with an expected L0 of around 100"),
    "e.fvu_decrease_max": _one(0.05, "App. E, Fig. 16", "up to a 5% decrease in FVU", GEMMA_9B),
}


def reported(value: str | float) -> Reported:
    """Return the reported value behind a key, or wrap a plain number."""
    return VALUES[value] if isinstance(value, str) else _one(float(value), "", "")


def relation(value: Reported, low: float, high: float) -> str:
    """Say in words how an interval lies to what the paper reports."""
    if math.isnan(low) or math.isnan(high):
        return "undefined"
    if high < value.low:
        return "lower"
    if low > value.high:
        return "higher"
    return "inside" if value.low <= low and high <= value.high else "overlaps"


def placed(relations: Sequence[str]) -> str:
    """Say how several results lie to what the paper reports: one word if all lie alike, else how many lie how."""
    counts = Counter(relations).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{word} {n} of {len(relations)}" for word, n in counts)


def comparison(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table "paper vs this run" from recorded rows; results with one reported value are shown as a spread."""
    import pandas as pd

    table = []
    for group, part in rows.groupby(["figure", "metric", "paper_value"], sort=False):
        figure, metric, key = cast("tuple[str, str, str | float]", group)
        said = reported(key)
        first = part.iloc[0]
        ends = zip(part["ci_low"].fillna(part["value"]), part["ci_high"].fillna(part["value"]), strict=True)
        if len(part) > 1:
            run = f"{number(part['value'].min())} to {number(part['value'].max())} over {len(part)} results"
        else:
            run = interval(first["value"], first["ci_low"], first["ci_high"])
        table.append(
            {
                "Quantity": label(metric),
                "Paper": said.text.replace("..", " to "),
                "Where": ", ".join(part for part in (said.where or figure, said.on) if part),
                "This run": run,
                "This run is": placed([relation(said, low, high) for low, high in ends]),
            }
        )
    return pd.DataFrame(table)
