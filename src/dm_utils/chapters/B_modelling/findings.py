"""What Appendix B says of this run: each claim with its verdict, and the sentences, from the tables alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from scipy.stats import binom

from dm_utils.base.verdicts import above, verdict, within
from dm_utils.chapters.B_modelling.charts import READINGS
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.tables import estimates

AVERAGES = ("mean", "mean_active")  # the two readings of "average weight" in B.1
EQUAL = (0.9, 1.1)  # "approximately equal": the slope of the dot products on the reading
NEARLY = 0.8  # a vector predicts nearly as well as a* if it reaches this share of its R²


def coverage(*checks: pd.DataFrame) -> str:
    """Closed forms agree with simulation: at least as many 95 % intervals hold the exact value as chance allows in 99 of 100
    books. `checks` have `exact, low, high`."""
    table = pd.concat(checks)
    held = int(table["exact"].between(table["low"], table["high"]).sum())
    agree = verdict([held >= binom.ppf(0.01, len(table), 0.95)])
    return f"{held} of {len(table)} intervals hold the exact value; 95 % of them should, on average. Agreement: **{agree}**."


def coherence_alone(grid: pd.DataFrame, law: str, probability: float) -> str:
    """What a cosine between all features does to the best probe, without crowding and with it: `grid` is `sweeps.cost_grid`."""
    at = grid[(grid["law"] == law) & (grid["probability"] == probability)].set_index(["crowding", "signs", "cosine"])[
        "explained"
    ]
    near, far = grid["cosine"].min(), grid["cosine"].max()

    def step(crowding: str, signs: str) -> str:
        return f"{at[crowding, signs, near]:.2f} to {at[crowding, signs, far]:.2f}"

    few, many = "half as many as dimensions", "4 per dimension"
    return (
        f"As the cosine goes from {near:g} to {far:g} ({law}, on {probability:.1%} of the tokens), R² goes from {step(few, 'mixed')} for "
        f"{few} and mixed signs. For {many} it goes from {step(many, 'mixed')} with mixed signs and from "
        f"{step(many, 'all positive')} with a common direction: crowding is what costs, and one direction that all features share "
        f"{'makes up for it' if at[many, 'all positive', far] > at[many, 'all positive', near] else 'does not make up for it'}."
    )


def average_weight(readings: pd.DataFrame) -> str:
    """Fig. 14: the dot products with a* equal an average weight: for one of the two averages, the interval of the slope lies in
    `EQUAL`. `readings` is `latent_norms.which_mean`."""
    rows = readings.set_index("reading").loc[list(AVERAGES)]
    return verdict([any(within(slope, *EQUAL) for slope in estimates(rows, "slope"))])


def sum_of_latents(readings: pd.DataFrame) -> str:
    """The sum of latents weighted by an average predicts the norm nearly as well as a*: the best of the two averages reaches
    `NEARLY` of the R² of a*."""
    r2 = readings.set_index("reading")["r2"]
    return verdict([max(r2[name] for name in AVERAGES) >= NEARLY * r2["a*"]])


def which_mean(readings: pd.DataFrame, n_latents: int) -> str:
    """Which reading of "average weight" the dot products of Fig. 14 follow."""
    own = readings.set_index("reading")
    simple = own.drop(index=["independent", "a*"])
    close, best = str(simple["correlation"].idxmax()), str(simple["r2"].idxmax())
    equal = str((simple["slope"] - 1).abs().idxmin())
    slope, correlation, r2 = own["slope"], own["correlation"], own["r2"]
    return (
        f"**Which mean, in this run?** Over {n_latents:,} latents, weighted by variance, the dot products correlate most with the "
        f"*{READINGS[close]}* ({correlation[close]:.2f}); their slope on it is {slope[close]:.2f}. The reading whose slope is nearest "
        f"to 1 is the *{READINGS[equal]}* (slope {slope[equal]:.2f}, correlation {correlation[equal]:.2f}). That they equal an "
        f"average weight: **{average_weight(readings)}**. As a probe, the best of the simple sums, by *{READINGS[best]}*, reaches "
        f"R² = {r2[best]:.2f}, the fitted a* {r2['a*']:.2f}, and the theorem's vector for independent latents "
        f"{r2['independent']:.2f}. That the sum by an average is nearly the best probe: **{sum_of_latents(readings)}**."
    )


def steps_of(ladder: pd.DataFrame) -> dict[str, float]:
    """R² at each step of `latent_norms.ladder`, by a short name."""
    names = ("ideal", "crowd", "shuffled", "real", "gaussian_sae", "x", "gaussian_x")
    return dict(zip(names, ladder["r2"], strict=True))


def near_orthogonality_is_enough(ladder: pd.DataFrame) -> str:
    """Nearly orthogonal directions are enough: independent latents in the decoder's directions reach `NEARLY` of the R² that
    orthonormal ones would."""
    r2 = steps_of(ladder)
    return verdict([r2["crowd"] >= NEARLY * r2["ideal"]])


def beyond_a_gaussian(ladder: pd.DataFrame) -> str:
    """The score of x is more than that of its Gaussian twin: the interval of x's lies above it."""
    x = ladder[ladder["step"] == "x"].iloc[0]
    return verdict([above(Estimate.read(x, "r2"), steps_of(ladder)["gaussian_x"])])


def climb(ladder: pd.DataFrame, width: int, d: int) -> str:
    """From the theorem to the activation, step by step."""
    r2 = steps_of(ladder)
    together = r2["real"] - r2["crowd"]
    return (
        f"**In this run** the latents' own laws would allow R² = {r2['ideal']:.2f} if their directions were orthonormal. Their real "
        f"directions, {width} in {d} dimensions, would bring an independent sum to {r2['crowd']:.2f} (shuffled: "
        f"{r2['shuffled']:.2f}). The real Sae(x) reaches {r2['real']:.2f}: what latents do *together* "
        f"{'restores' if together > 0 else 'costs'} {abs(together):.2f}. A Gaussian with the same mean and covariance would get "
        f"{r2['gaussian_sae']:.2f} (Sae(x)) and {r2['gaussian_x']:.2f} (x, measured {r2['x']:.2f}). That x's score is more than a "
        f"Gaussian's: **{beyond_a_gaussian(ladder)}**."
    )


def bound(found: Sequence[Mapping[str, Estimate]]) -> str:
    """The residual of the regression bounds what the SAE introduces: in no case of an ideal SAE does the interval of what is
    introduced lie above the interval of its estimate."""
    return verdict([all(case["introduced"].low <= case["nonlinear"].high for case in found)])


def unpredictable(soft: Estimate) -> str:
    """What a nonlinear SAE introduces is not predictable from x: for a soft threshold, the interval of R² lies below 0.1."""
    return verdict([within(soft, -math.inf, 0.1)])


def only_features_pass(gaussians: pd.DataFrame, ladder: pd.DataFrame) -> str:
    """A predictable norm means linear features: no Gaussian vector's interval lies above the score of Sae(x), which is a sum of
    features."""
    return verdict([bool((gaussians["low"] <= steps_of(ladder)["real"]).all())])


def poisson(checks: pd.DataFrame) -> str:
    """The paper's ρ of Poisson weights: the interval of the simulated one holds the printed one."""
    row = checks.set_index("case").loc["Poisson, λ = 1"]
    return verdict([bool(row["low"] <= row["printed"] <= row["high"])])


def first(ladder: pd.DataFrame, readings: pd.DataFrame) -> list[str]:
    """The verdict that comes first: the theorems' (they hold for every run), and this run's."""
    r2 = steps_of(ladder)
    return [
        "The squared norm of a sum of orthonormal features is a linear function of the vector exactly when each weight is "
        "on-or-off. Sparsity is not the reason; the spread of a latent's sizes is the obstacle.",
        "For crowded dictionaries the best probe is known in closed form if latents are independent. That "
        f"nearly orthogonal directions are enough: **{near_orthogonality_is_enough(ladder)}** here (R² {r2['crowd']:.2f} of "
        f"{r2['ideal']:.2f}). That the probe is the sum of latents weighted by an average: **{sum_of_latents(readings)}**. What real "
        f"latents do together moves R² from {r2['crowd']:.2f} to {r2['real']:.2f}.",
        "The norm test has neither the sensitivity (exponential weights on orthonormal features get 3/4) nor the specificity (a "
        "Gaussian with a large mean passes) that reading it as evidence for linear features would need. Beside a control with the "
        f"same mean and covariance it becomes informative: x scores {r2['x']:.2f}, its Gaussian twin {r2['gaussian_x']:.2f}.",
        "The nonlinear error is a well-defined measurement. It is not a bound on what an SAE introduces.",
    ]


def statements(
    checks: pd.DataFrame,
    gaussians: pd.DataFrame,
    readings: pd.DataFrame,
    ladder: pd.DataFrame,
    ideal: Sequence[Mapping[str, Estimate]],
    soft: Estimate,
) -> pd.DataFrame:
    """The claims of Appendices B and C.1, what this run found, and the verdict by the rules above."""
    rho, r2, best = checks.set_index("case")["value"], steps_of(ladder), readings.set_index("reading")
    averages, sums = (" and ".join(f"{best[column][name]:.2f}" for name in AVERAGES) for column in ("slope", "r2"))
    most = max(ideal, key=lambda case: case["introduced"].value - case["nonlinear"].value)
    gap = f"introduced {most['introduced'].value:.2f}, estimated {most['nonlinear'].value:.2f}"
    rows = [
        ("Poisson weights, λ = 1: ρ ≈ 0.73 (C.1)", f"{rho['Poisson, λ = 1']:.3f}", poisson(checks)),
        (
            "Near-orthogonality is enough (B.1)",
            f"R² {r2['crowd']:.2f} of {r2['ideal']:.2f}",
            near_orthogonality_is_enough(ladder),
        ),
        ("a*·y is a latent's average weight (C.2, Fig. 14)", f"slopes {averages}", average_weight(readings)),
        ("The sum of latents by average weight predicts the norm (B.1)", f"R² {sums}", sum_of_latents(readings)),
        (
            "A predictable norm means linear features (B.1)",
            f"Gaussians up to {gaussians['value'].max():.2f}, Sae(x) {r2['real']:.2f}",
            only_features_pass(gaussians, ladder),
        ),
        ("The residual bounds what an SAE introduces (B.2)", gap, bound(ideal)),
        ("What a nonlinear SAE introduces is not predictable (B.2)", f"R² {soft}", unpredictable(soft)),
    ]
    return pd.DataFrame(rows, columns=["The paper", "This run", "Verdict"])


def same_quantity(rows: pd.DataFrame, measured: Estimate, per_token: float) -> str:
    """Why this chapter's R² of NonlinearError from Sae(x) is not Section 6.2's.

    `rows` holds the formula's value on this chapter's text and on Section 6.2's, in that order: `weighted, mean`;
    `per_token` is the number of coefficients over that of the fitting tokens here.
    """
    here, there = (rows.iloc[i] for i in (0, 1))
    text, weighting, fit = (
        there["weighted"] - here["weighted"],
        here["mean"] - here["weighted"],
        here["weighted"] - measured.value,
    )
    return (
        f"Section 6.2 finds another number for the same quantity. Three things differ. The text: the formula, which holds out "
        f"nothing, gives {here['weighted']:.3f} here and {there['weighted']:.3f} there ({text:+.3f}). The weighting: Section 6.2 "
        f"takes the mean over dimensions ({weighting:+.3f}). And the fit: a regression on half of these tokens, with {per_token:.4f} "
        f"coefficients per token, finds {fit:.3f} less than the formula; Section 6.2 fits more of them."
    )


def nonlinear_from_sae(name: str, twins: Mapping[str, Estimate], mean_share: float) -> str:
    """NonlinearError and noise in its place, predicted from Sae(x); and the cosine that pure shrinkage would show here."""
    return (
        f"**On {name}**: Sae(x) predicts NonlinearError with R² = {twins['nonlinear_error']} (variance-weighted) and independent "
        f"noise of the same covariance, put in its place, with R² = {twins['independent_noise']}. The mean activation holds "
        f"{mean_share:.0%} of E‖x‖² here, so pure shrinkage towards it would show a cosine of about {(1 - mean_share) ** 0.5:.2f}."
    )


def tilted(shares: Mapping[str, float]) -> str:
    """How much of the error of a turned atom is linear in x, for each set of features."""
    whole = [case for case, r2 in shares.items() if r2 > 1 - 1e-9]
    rest = [f"{100 * r2:.0f} % for {case}" for case, r2 in shares.items() if r2 <= 1 - 1e-9]
    return (
        f"All of it is linear for {' and for '.join(whole) or 'none of them'}"
        + (f", {', '.join(rest)}" if rest else "")
        + ". The slider "
        "changes how large the error is, and nothing about that share."
    )
