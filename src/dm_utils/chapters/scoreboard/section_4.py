"""The claims of Section 4, and those of the introduction that it measures."""

from __future__ import annotations

from dm_utils.chapters.scoreboard.rules import Claim, Rows, above, ahead, at_ends, below, both, inside, trend, wholly

NORM = Rows("04_1_error_norms", "r2_error_norm", "2 (left)", lambda found: ~found["figure"].str.contains("split"))
VECTOR = Rows("04_2_error_vectors", "r2_error_vector", "2 (middle)", lambda found: found["paper_value"] != "0.5")
NONLINEAR = Rows("04_3_dark_matter", "fvu_nonlinear", "2 (right)")
LAYERS = Rows("04_1_error_norms", "r2_error_norm", "3")
WIDTHS, SPARSITIES = ["architecture", "l0_near"], ["architecture", "d_sae"]
PER_TOKEN = Rows(
    "04_4_per_token", r"r2 of error norms from width .*, squared norms, one scalar \(Eq. 13 as printed\)", "4"
)
CLAIMS = [
    Claim(
        "early-tokens",
        "§4",
        "Earlier tokens of a context are easier to reconstruct",
        "easier",
        "the SAE that the book opens with: FVU of the positions left out over that of the kept ones below 1",
        below(Rows("04_1_error_norms", "FVU of early positions over that of later ones"), 1),
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
    ),
    Claim(
        "ninety",
        "abstract",
        "More than 90 % of the error norm is linearly predictable",
        "> 0.9",
        "every SAE of the main layer: R² of the squared norm above 0.9",
        above(NORM, 0.9),
    ),
    Claim(
        "norm-range",
        "§4.1",
        "70 to 95 % of the variance of the error norm is explained, for every width, L0 and layer",
        "0.70 to 0.95",
        "every SAE: the interval of R² touches 0.70 to 0.95",
        inside(NORM, 0.70, 0.95),
    ),
    Claim(
        "norm-width",
        "§4.1, Fig. 2",
        "Wider SAEs have less predictable error norms",
        "falls",
        "at each L0: the widest SAE's R² below the narrowest's, intervals apart",
        trend(NORM, "d_sae", True, WIDTHS),
    ),
    Claim(
        "norm-l0",
        "§4.1, Fig. 2",
        "Sparser SAEs have less predictable error norms",
        "rises with L0",
        "at each width: the densest SAE's R² above the sparsest's, intervals apart",
        trend(NORM, "l0", False, SPARSITIES),
    ),
    Claim(
        "plateau",
        "§4.1, Fig. 3",
        "Over the middle layers R² stays between 0.8 and 0.95",
        "0.80 to 0.95",
        "every layer in the middle half: the interval touches 0.80 to 0.95",
        inside(Rows("04_1_error_norms", "r2_error_norm", "3", lambda f: f["paper_value"] == "0.8..0.95"), 0.80, 0.95),
    ),
    Claim(
        "early",
        "§4.1, Fig. 3",
        "R² is low in the first layers",
        "low, then rises",
        "the first layer's interval below the median of the layers between the first and the last",
        at_ends(LAYERS, last=False),
    ),
    Claim(
        "late",
        "§4.1, Fig. 3",
        "R² drops off steeply in the last layers",
        "drops",
        "the last layer's interval below the median of the layers between the first and the last",
        at_ends(LAYERS, last=True),
    ),
    Claim(
        "vector-range",
        "§4.2",
        "15 to 72 % of the error vector is linearly predictable, over widths and L0s",
        "0.15 to 0.72",
        "every SAE: the interval of R² touches 0.15 to 0.72",
        inside(VECTOR, 0.15, 0.72),
    ),
    Claim(
        "vector-below",
        "§4.2",
        "The error vector is less predictable than its norm",
        "lower",
        "every SAE: R² of the vector below that of the norm, intervals apart",
        ahead(NORM, VECTOR),
    ),
    Claim(
        "subspaces",
        "§4.2",
        "There are large linear subspaces that the SAE is mostly failing to learn",
        "not reported",
        "in a tenth of the directions of b* or more, the error keeps over half of the variance of x",
        above(Rows("beyond_linear", "missed_directions, share of the dimensions"), 0.1),
    ),
    Claim(
        "vector-width",
        "§4.2, Fig. 2",
        "R² of the error vector falls with SAE width",
        "falls",
        "at each L0: the widest SAE's R² below the narrowest's, intervals apart",
        trend(VECTOR, "d_sae", True, WIDTHS),
    ),
    Claim(
        "vector-l0",
        "§4.2, Fig. 2",
        "R² of the error vector falls with L0",
        "falls",
        "at each width: the densest SAE's R² below the sparsest's, intervals apart",
        trend(VECTOR, "l0", True, SPARSITIES),
    ),
    Claim(
        "opposite",
        "§4.2",
        "With L0 the two R² move in opposite directions",
        "norm rises, vector falls",
        "at each width: norm rises and vector falls from end to end, intervals apart",
        both(trend(NORM, "l0", False, SPARSITIES), trend(VECTOR, "l0", True, SPARSITIES)),
    ),
    Claim(
        "constant-c",
        "§1, §4.3, Fig. 1",
        "FVU falls with width as a power law towards a constant above zero",
        "c > 0",
        "at each L0: the interval of the constant lies above 0",
        above(Rows("04_3_dark_matter", "constant c, L0 near .*", "1"), 0),
    ),
    Claim(
        "flat",
        "§4.3, Fig. 2",
        "At a fixed L0, FVU nonlinear is approximately constant as width grows",
        "about 0 per doubling",
        "at each L0: its relative change per doubling of the width lies within 5 %, interval included",
        wholly(Rows("04_3_dark_matter", "change of fvu_nonlinear per doubling, .*"), -0.05, 0.05),
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
    ),
    Claim(
        "nonlinear-l0",
        "§4.3",
        "FVU nonlinear falls as L0 grows",
        "falls",
        "at each width: the densest SAE's below the sparsest's, intervals apart",
        trend(NONLINEAR, "l0", True, SPARSITIES),
    ),
    Claim(
        "asymptote",
        "§4.3, Fig. 1",
        "The power law ends above the nonlinear level, so linear error stays at any width",
        "> 0",
        "at each L0: what is left between them, by the paper's own construction, lies above 0",
        above(Rows("04_3_dark_matter", r"linear error that stays, .*constant \(the paper's\)", "1"), 0),
    ),
    Claim(
        "per-token",
        "§4.4, Fig. 4",
        "Error norms of a larger SAE are predictable from those of a smaller one, token by token",
        "high",
        "every pair: R² of Eq. 13 (one scalar) above 0.5",
        above(PER_TOKEN, 0.5),
    ),
    Claim(
        "same-contexts",
        "abstract, §4.4",
        "Larger SAEs mostly struggle with the same contexts as smaller ones",
        "the same",
        "the mean error norms of contexts, under the narrowest and the widest SAE: correlation above 0.5",
        above(Rows("04_4_per_token", "correlation of context means of the error norm"), 0.5),
    ),
]
