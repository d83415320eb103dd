"""Every claim of the paper that a table of the book can test: its place, its words, the rule that judges it, and its figure.

`rule` is code and `test` says it in words; both stand on the page, so that a reader can disagree with either.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from dm_utils.chapters.scoreboard.rules import (
    Rows,
    Rule,
    above,
    ahead,
    at_ends,
    below,
    both,
    close,
    inside,
    layer_of,
    trend,
    wholly,
)


@dataclass(frozen=True)
class Claim:
    """A claim: where the paper makes it, what it says and reports, the test in words and as a rule, and the chapter that measures it."""

    key: str
    place: str
    says: str
    paper: str
    test: str
    rule: Rule
    chapter: str


NORM = Rows("04_1_error_norms", "r2_error_norm", "2 (left)", lambda found: ~found["figure"].str.contains("split"))
VECTOR = Rows("04_2_error_vectors", "r2_error_vector", "2 (middle)", lambda found: found["paper_value"] != "0.5")
FVU, NONLINEAR = (Rows("04_3_dark_matter", name, "2 (right)") for name in ("fvu", "fvu_nonlinear"))
LAYERS = Rows("04_1_error_norms", "r2_error_norm", "3")
NORM_TEST = {
    part: Rows("05_1_norm_test", f"r2_{part}_norm", "6") for part in ("x", "sae", "error", "linear", "nonlinear")
}
LEAD = "lead_of_activation_over_best_easy_predictor"
BETWEEN = r"R² of {} from (?!same).*: SAE reconstruction, alone"
REMOVED = r"R², variance-weighted of nonlinear from (?!same).*: SAE reconstruction, together with x"  # 1 − FVU_nl with it / without
PURSUIT, DOWNSTREAM, A = "06_1_pursuit", "05_3_downstream", "A_more_predictions"
WIDTHS, SPARSITIES = ["architecture", "l0_near"], ["architecture", "d_sae"]


def per_token(pair: str = ".*") -> Rows:
    """R² of the error norms of one SAE from those of another, by one scalar as in Eq. 13."""
    metric = rf"r2 of error norms from width {pair}, squared norms, one scalar \(Eq. 13 as printed\)"
    return Rows("04_4_per_token", metric, "4")


def later(found: pd.DataFrame) -> pd.Series:
    """The rows beyond the first third of the layers."""
    layer = layer_of(found)
    return layer > layer.min() + (layer.max() - layer.min()) / 3


def first(found: pd.DataFrame) -> pd.Series:
    """The rows of the first layer."""
    return layer_of(found) == layer_of(found).min()


SECTION_4 = [
    Claim(
        "early-tokens",
        "§4",
        "Earlier tokens of a context are easier to reconstruct",
        "easier",
        "the SAE that the book opens with: FVU of the positions left out over that of the kept ones below 1",
        below(Rows("04_1_error_norms", "FVU of early positions over that of later ones"), 1),
        "04_1_error_norms",
    ),
    Claim(
        "half",
        "abstract",
        "About half of the error vector is linearly predictable",
        "0.5",
        "the SAE that the book opens with: R² within 0.1 of one half",
        inside(
            Rows("04_2_error_vectors", "r2_error_vector", "2 (middle)", lambda f: f["paper_value"] == "0.5"), 0.4, 0.6
        ),
        "04_2_error_vectors",
    ),
    Claim(
        "ninety",
        "abstract",
        "More than 90 % of the error norm is linearly predictable",
        "> 0.9",
        "every SAE of the main layer: R² of the squared norm above 0.9",
        above(NORM, 0.9),
        "04_1_error_norms",
    ),
    Claim(
        "norm-range",
        "§4.1",
        "70 to 95 % of the variance of the error norm is explained, for every width, L0 and layer",
        "0.70 to 0.95",
        "every SAE: the interval of R² touches 0.70 to 0.95",
        inside(NORM, 0.70, 0.95),
        "04_1_error_norms",
    ),
    Claim(
        "norm-width",
        "§4.1, Fig. 2",
        "Wider SAEs have less predictable error norms",
        "falls",
        "at each L0: the widest SAE's R² below the narrowest's, intervals apart",
        trend(NORM, "d_sae", True, WIDTHS),
        "04_1_error_norms",
    ),
    Claim(
        "norm-l0",
        "§4.1, Fig. 2",
        "Sparser SAEs have less predictable error norms",
        "rises with L0",
        "at each width: the densest SAE's R² above the sparsest's, intervals apart",
        trend(NORM, "l0", False, SPARSITIES),
        "04_1_error_norms",
    ),
    Claim(
        "plateau",
        "§4.1, Fig. 3",
        "Over the middle layers R² stays between 0.8 and 0.95",
        "0.80 to 0.95",
        "every layer in the middle half: the interval touches 0.80 to 0.95",
        inside(Rows("04_1_error_norms", "r2_error_norm", "3", lambda f: f["paper_value"] == "0.8..0.95"), 0.80, 0.95),
        "04_1_error_norms",
    ),
    Claim(
        "early",
        "§4.1, Fig. 3",
        "R² is low in the first layers",
        "low, then rises",
        "the first layer's interval below the median of the layers between the first and the last",
        at_ends(LAYERS, last=False),
        "04_1_error_norms",
    ),
    Claim(
        "late",
        "§4.1, Fig. 3",
        "R² drops off steeply in the last layers",
        "drops",
        "the last layer's interval below the median of the layers between the first and the last",
        at_ends(LAYERS, last=True),
        "04_1_error_norms",
    ),
    Claim(
        "vector-range",
        "§4.2",
        "15 to 72 % of the error vector is linearly predictable, over widths and L0s",
        "0.15 to 0.72",
        "every SAE: the interval of R² touches 0.15 to 0.72",
        inside(VECTOR, 0.15, 0.72),
        "04_2_error_vectors",
    ),
    Claim(
        "vector-below",
        "§4.2",
        "The error vector is less predictable than its norm",
        "lower",
        "every SAE: R² of the vector below that of the norm, intervals apart",
        ahead(NORM, VECTOR),
        "04_2_error_vectors",
    ),
    Claim(
        "subspaces",
        "§4.2",
        "There are large linear subspaces that the SAE is mostly failing to learn",
        "not reported",
        "in a tenth of the directions of b* or more, the error keeps over half of the variance of x",
        above(Rows("beyond_linear", "missed_directions, share of the dimensions"), 0.1),
        "beyond_linear",
    ),
    Claim(
        "vector-width",
        "§4.2, Fig. 2",
        "R² of the error vector falls with SAE width",
        "falls",
        "at each L0: the widest SAE's R² below the narrowest's, intervals apart",
        trend(VECTOR, "d_sae", True, WIDTHS),
        "04_2_error_vectors",
    ),
    Claim(
        "vector-l0",
        "§4.2, Fig. 2",
        "R² of the error vector falls with L0",
        "falls",
        "at each width: the densest SAE's R² below the sparsest's, intervals apart",
        trend(VECTOR, "l0", True, SPARSITIES),
        "04_2_error_vectors",
    ),
    Claim(
        "opposite",
        "§4.2",
        "With L0 the two R² move in opposite directions",
        "norm rises, vector falls",
        "at each width: norm rises and vector falls from end to end, intervals apart",
        both(trend(NORM, "l0", False, SPARSITIES), trend(VECTOR, "l0", True, SPARSITIES)),
        "04_2_error_vectors",
    ),
    Claim(
        "constant-c",
        "§1, §4.3, Fig. 1",
        "FVU falls with width as a power law towards a constant above zero",
        "c > 0",
        "at each L0: the interval of the constant lies above 0",
        above(Rows("04_3_dark_matter", "constant c, L0 near .*", "1"), 0),
        "04_3_dark_matter",
    ),
    Claim(
        "flat",
        "§4.3, Fig. 2",
        "At a fixed L0, FVU nonlinear is approximately constant as width grows",
        "about 0 per doubling",
        "at each L0: its relative change per doubling of the width lies within 5 %, interval included",
        wholly(Rows("04_3_dark_matter", "change of fvu_nonlinear per doubling, .*"), -0.05, 0.05),
        "04_3_dark_matter",
    ),
    Claim(
        "slower",
        "§4.3",
        "FVU nonlinear falls more slowly with width than FVU",
        "slower",
        "at each L0: its relative change per doubling above that of FVU, intervals apart",
        ahead(
            Rows("04_3_dark_matter", "change of fvu_nonlinear per doubling, .*", "", None),
            Rows("04_3_dark_matter", "change of fvu per doubling, .*", "", None),
            on=["series"],
        ),
        "04_3_dark_matter",
    ),
    Claim(
        "nonlinear-l0",
        "§4.3",
        "FVU nonlinear falls as L0 grows",
        "falls",
        "at each width: the densest SAE's below the sparsest's, intervals apart",
        trend(NONLINEAR, "l0", True, SPARSITIES),
        "04_3_dark_matter",
    ),
    Claim(
        "asymptote",
        "§4.3, Fig. 1",
        "The power law ends above the nonlinear level, so linear error stays at any width",
        "> 0",
        "at each L0: what is left between them, by the paper's own construction, lies above 0",
        above(Rows("04_3_dark_matter", r"linear error that stays, .*constant \(the paper's\)", "1"), 0),
        "04_3_dark_matter",
    ),
    Claim(
        "per-token",
        "§4.4, Fig. 4",
        "Error norms of a larger SAE are predictable from those of a smaller one, token by token",
        "high",
        "every pair: R² of Eq. 13 (one scalar) above 0.5",
        above(per_token(), 0.5),
        "04_4_per_token",
    ),
    Claim(
        "same-contexts",
        "abstract, §4.4",
        "Larger SAEs mostly struggle with the same contexts as smaller ones",
        "the same",
        "the mean error norms of contexts, under the narrowest and the widest SAE: correlation above 0.5",
        above(Rows("04_4_per_token", "correlation of context means of the error norm"), 0.5),
        "04_4_per_token",
    ),
]
SECTION_5 = [
    Claim(
        "x-norm",
        "§5.1, Fig. 6",
        "The squared norm of x is almost perfectly predicted from x",
        "about 1",
        "every site: R² above 0.95",
        above(NORM_TEST["x"], 0.95),
        "05_1_norm_test",
    ),
    Claim(
        "nonlinear-test",
        "§5.1, Fig. 6",
        "NonlinearError scores notably lower in the norm test than LinearError",
        "lower",
        "every SAE: R² of the nonlinear part's norm below the linear part's, intervals apart",
        ahead(NORM_TEST["linear"], NORM_TEST["nonlinear"]),
        "05_1_norm_test",
    ),
    Claim(
        "error-test",
        "§5.1, Fig. 6",
        "SaeError, too, scores lower than LinearError",
        "lower",
        "every SAE: R² of the error's norm below the linear part's, intervals apart",
        ahead(NORM_TEST["linear"], NORM_TEST["error"]),
        "05_1_norm_test",
    ),
    Claim(
        "harder",
        "abstract, §5.2",
        "An SAE trained on NonlinearError reaches a higher FVU than one trained on LinearError",
        "+0.05",
        "the difference lies above 0",
        above(Rows("05_2_saes_on_error", "FVU, NonlinearError minus LinearError"), 0),
        "05_2_saes_on_error",
    ),
    Claim(
        "harder-by",
        "§5.2",
        "It is higher by an absolute 5 %",
        "0.05",
        "the difference within 0.03 of 0.05",
        inside(Rows("05_2_saes_on_error", "FVU, NonlinearError minus LinearError"), 0.02, 0.08),
        "05_2_saes_on_error",
    ),
    Claim(
        "harder-than-twin",
        "§5.2",
        "The difference is more than that of Gaussian vectors with the same covariances",
        "not reported",
        "the difference of the parts above that of their twins, intervals apart",
        ahead(
            Rows("05_2_saes_on_error", "FVU, NonlinearError minus LinearError"),
            Rows("05_2_saes_on_error", "FVU, the same for their Gaussian twins"),
            on=["chapter"],
        ),
        "05_2_saes_on_error",
    ),
    Claim(
        "interpretable",
        "§5.2, Fig. 7",
        "Latents of the SAE on LinearError are more interpretable",
        "+5 %",
        "balanced accuracy, linear minus nonlinear, above 0 (rules about tokens unless a language model explains)",
        above(Rows("05_2_saes_on_error", "accuracy by .*, balanced, linear minus nonlinear", "7"), 0),
        "05_2_saes_on_error",
    ),
    Claim(
        "proportional-nonlinear",
        "abstract, §5.3",
        "NonlinearError costs cross-entropy in proportion to its share of the variance",
        "proportional",
        "every SAE: loss recovered and share of variance within 0.1",
        close(Rows(DOWNSTREAM, "ce_recovered_nonlinear", "8"), Rows(DOWNSTREAM, "share_variance_nonlinear", "8"), 0.1),
        "05_3_downstream",
    ),
    Claim(
        "proportional-linear",
        "§5.3, Fig. 8",
        "LinearError costs cross-entropy in proportion to its share of the variance",
        "proportional",
        "every SAE: loss recovered and share of variance within 0.1",
        close(Rows(DOWNSTREAM, "ce_recovered_linear", "8"), Rows(DOWNSTREAM, "share_variance_linear", "8"), 0.1),
        "05_3_downstream",
    ),
    Claim(
        "linear-more",
        "§5.3",
        "LinearError contributes slightly more than expected",
        "slightly more",
        "every SAE: loss recovered above the share of variance, intervals apart",
        ahead(Rows(DOWNSTREAM, "ce_recovered_linear", "8"), Rows(DOWNSTREAM, "share_variance_linear", "8")),
        "05_3_downstream",
    ),
]
SECTION_6 = [
    Claim(
        "pursuit-fvu",
        "§6.1",
        "Gradient pursuit lowers the total FVU by 3 to 5 %",
        "0.03 to 0.05",
        "every width: the interval of the absolute decrease touches 0.03 to 0.05",
        inside(Rows(PURSUIT, "fvu_drop", "9a"), 0.03, 0.05),
        "06_1_pursuit",
    ),
    Claim(
        "pursuit-nonlinear",
        "abstract, §6.1",
        "Pursuit leaves FVU nonlinear almost unchanged",
        "very slight",
        "every width: the relative decrease below 10 %",
        below(Rows(PURSUIT, "fvu_nonlinear_drop_relative", "9a"), 0.1),
        "06_1_pursuit",
    ),
    Claim(
        "own-output",
        "§6",
        "Sae(x) predicts half of the nonlinear error",
        "0.5",
        "R² within 0.1 of one half",
        inside(Rows("06_2_between_saes", "R² of nonlinear from same residual: SAE reconstruction, alone"), 0.4, 0.6),
        "06_2_between_saes",
    ),
    Claim(
        "previous-nonlinear",
        "§6",
        "SAEs of previous components predict 4 to 14 % of the nonlinear error",
        "0.04 to 0.14",
        "every component: the interval of R² touches 0.04 to 0.14",
        inside(Rows("06_2_between_saes", BETWEEN.format("nonlinear")), 0.04, 0.14),
        "06_2_between_saes",
    ),
    Claim(
        "previous-error",
        "§6",
        "SAEs of previous components predict 6 to 10 % of the error",
        "0.06 to 0.10",
        "every component: the interval of R² touches 0.06 to 0.10",
        inside(Rows("06_2_between_saes", BETWEEN.format("error")), 0.06, 0.10),
        "06_2_between_saes",
    ),
    Claim(
        "reduction-order",
        "abstract",
        "Earlier SAEs reduce nonlinear error by more than pursuit does",
        "larger reduction",
        "at the same width: the share of FVU nonlinear that each component removes beside x, above the share that pursuit removes",
        ahead(
            Rows("06_2_between_saes", REMOVED),
            Rows(PURSUIT, "fvu_nonlinear_drop_relative", "9a"),
            on=["profile", "d_sae"],
        ),
        "06_2_between_saes",
    ),
    Claim(
        "side-channel",
        "§7",
        "Some subspaces resist being learned: a low-rank dense side channel would take the linear error",
        "not reported",
        "a quarter of the dimensions hold nine tenths of the linear error",
        below(Rows("beyond_linear", "rank_for_90_percent, share of the dimensions"), 0.25),
        "beyond_linear",
    ),
    Claim(
        "forecast",
        "§7",
        "Small SAEs forecast the errors of larger ones",
        "predictable",
        "every pair of widths: R² of Eq. 13 (one scalar) above 0.9",
        above(per_token(), 0.9),
        "04_4_per_token",
    ),
    Claim(
        "circuits",
        "§7",
        "Earlier SAEs explain part of the error, so circuits need smaller noise terms",
        "0.06 to 0.10",
        "every component: R² of the error above 0",
        above(Rows("06_2_between_saes", BETWEEN.format("error")), 0),
        "06_2_between_saes",
    ),
]
APPENDICES = [
    Claim(
        "norm-ratio",
        "App. A.1",
        "Reconstructions have about a 10 % smaller norm than x",
        "0.9",
        "every SAE: the mean ratio of norms within 0.05 of 0.9",
        inside(Rows("04_2_error_vectors", "norm_ratio", "App. A.1"), 0.85, 0.95),
        "04_2_error_vectors",
    ),
    Claim(
        "not-shrinkage",
        "App. A.1",
        "LinearError is not shrinkage: its cosine with x is around 0.5, not 1",
        "0.5",
        "every SAE: the mean cosine within 0.15 of 0.5",
        inside(Rows("04_2_error_vectors", "cos_linear_x", "App. A.1"), 0.35, 0.65),
        "04_2_error_vectors",
    ),
    Claim(
        "beats-easy",
        "App. A.3, Fig. 13",
        "The activation predicts the error norm better than token identity, L0, norm or loss",
        "better",
        "every layer beyond the first third: R² from the activation minus the best of the four above 0",
        above(Rows(A, LEAD, "Fig. 13", later), 0),
        A,
    ),
    Claim(
        "token-first",
        "App. A.3, Fig. 13",
        "In the first layers token identity predicts better than the activation",
        "better",
        "the first layer: R² from the activation minus the best of the four below 0",
        below(Rows(A, LEAD, "Fig. 13", first), 0),
        A,
    ),
    Claim(
        "token-linear",
        "App. A.4, Fig. 12",
        "Token by token, the linear error shrinks with width",
        "falls",
        "the share of tokens whose linear error falls lies above one half",
        above(Rows(A, "share_of_tokens_falling_linear", "Fig. 12"), 0.5),
        A,
    ),
    Claim(
        "token-nonlinear",
        "App. A.4, Fig. 12",
        "Token by token, the nonlinear error mostly stays constant",
        "constant",
        "the share of tokens whose nonlinear error moves by less than 5 % per doubling lies above one half",
        above(Rows(A, "share_of_tokens_steady_nonlinear", "Fig. 12"), 0.5),
        A,
    ),
    Claim(
        "bernoulli",
        "App. C.1",
        "Orthogonal features with Bernoulli weights: the squared norm is exactly linear",
        "ρ = 1",
        "the simulated correlation within 0.001 of 1",
        inside(Rows("B_modelling", "ρ, Bernoulli.*", "C.1"), 0.999, 1.001),
        "B_modelling",
    ),
    Claim(
        "poisson",
        "App. C.1",
        "Poisson weights with λ = 1: the correlation is 0.73",
        "0.73",
        "the simulated correlation within 0.01 of 0.73",
        inside(Rows("B_modelling", "ρ, Poisson.*", "C.1"), 0.72, 0.74),
        "B_modelling",
    ),
    Claim(
        "mean-activation",
        "App. C.2, Fig. 14",
        "The probe's product with a latent is the latent's mean activation",
        "equal",
        "the slope on either mean (over all tokens, over active tokens) lies within 0.2 of 1",
        inside(Rows("B_modelling", "slope: mean over (all|active) tokens", "14"), 0.8, 1.2),
        "B_modelling",
    ),
    Claim(
        "table-diagonal",
        "App. B.2, Table 1",
        "Noise on x′ is found as Dense, noise on Sae(x′) as Introduced",
        "0.98 and 0.90",
        "both correlations above 0.8",
        above(
            Rows(
                "C_synthetic", "correlation: (x′ noise, estimated Dense|Sae.x′. noise, estimated Introduced)", "Table 1"
            ),
            0.8,
        ),
        "C_synthetic",
    ),
    Claim(
        "table-off",
        "App. B.2, Table 1",
        "Each noise hardly shows in the other estimate",
        "0.14 and 0.10",
        "both correlations below 0.25 in size",
        inside(
            Rows(
                "C_synthetic", "correlation: (x′ noise, estimated Introduced|Sae.x′. noise, estimated Dense)", "Table 1"
            ),
            -0.25,
            0.25,
        ),
        "C_synthetic",
    ),
    Claim(
        "parabola",
        "App. D",
        "A sum of random vectors fails the test: its curve bends where real latents' is straight",
        "a parabola",
        "the bend of random vectors (equal variances, random order) above that of the SAE's latents, intervals apart",
        ahead(
            Rows("D_random_data", r"bend, masked random: 1\. .*"),
            Rows("D_random_data", r"bend, masked random: 5\. .*"),
            on=["chapter"],
        ),
        "D_random_data",
    ),
    Claim(
        "second-regressor",
        "App. E, Fig. 16",
        "The nonlinear norm helps to predict a larger SAE's error norms",
        "decreases",
        "every pair: the decrease of FVU with squared norms above 0",
        above(Rows("E_scaling", r"fvu_decrease_nonlinear_power_2_\d+_to_\d+"), 0),
        "E_scaling",
    ),
    Claim(
        "second-regressor-by",
        "App. E, Fig. 16",
        "It helps by up to 5 %",
        "up to 0.05",
        "the largest decrease within 0.02 of 0.05",
        inside(Rows("E_scaling", "largest_fvu_decrease_squared_norms"), 0.03, 0.07),
        "E_scaling",
    ),
]
CLAIMS = [*SECTION_4, *SECTION_5, *SECTION_6, *APPENDICES]
