"""The claims of the appendices."""

from __future__ import annotations

import pandas as pd

from dm_utils.chapters.scoreboard.rules import Claim, Rows, above, ahead, below, inside, layer_of

A, LEAD = "A_more_predictions", "lead_of_activation_over_best_easy_predictor"


def later(found: pd.DataFrame) -> pd.Series:
    """The rows beyond the first third of the layers."""
    layer = layer_of(found)
    return layer > layer.min() + (layer.max() - layer.min()) / 3


def first(found: pd.DataFrame) -> pd.Series:
    """The rows of the first layer."""
    return layer_of(found) == layer_of(found).min()


CLAIMS = [
    Claim(
        "norm-ratio",
        "App. A.1",
        "Reconstructions have about a 10 % smaller norm than x",
        "0.9",
        "every SAE: the mean ratio of norms within 0.05 of 0.9",
        inside(Rows("04_2_error_vectors", "norm_ratio", "App. A.1"), 0.85, 0.95),
    ),
    Claim(
        "not-shrinkage",
        "App. A.1",
        "LinearError is not shrinkage: its cosine with x is around 0.5, not 1",
        "0.5",
        "every SAE: the mean cosine within 0.15 of 0.5",
        inside(Rows("04_2_error_vectors", "cos_linear_x", "App. A.1"), 0.35, 0.65),
    ),
    Claim(
        "beats-easy",
        "App. A.3, Fig. 13",
        "The activation predicts the error norm better than token identity, L0, norm or loss",
        "better",
        "every layer beyond the first third: R² from the activation minus the best of the four above 0",
        above(Rows(A, LEAD, "Fig. 13", later), 0),
    ),
    Claim(
        "token-first",
        "App. A.3, Fig. 13",
        "In the first layers token identity predicts better than the activation",
        "better",
        "the first layer: R² from the activation minus the best of the four below 0",
        below(Rows(A, LEAD, "Fig. 13", first), 0),
    ),
    Claim(
        "token-linear",
        "App. A.4, Fig. 12",
        "Token by token, the linear error shrinks with width",
        "falls",
        "the share of tokens whose linear error falls lies above one half",
        above(Rows(A, "share_of_tokens_falling_linear", "Fig. 12"), 0.5),
    ),
    Claim(
        "token-nonlinear",
        "App. A.4, Fig. 12",
        "Token by token, the nonlinear error mostly stays constant",
        "constant",
        "the share of tokens whose nonlinear error moves by less than 5 % per doubling lies above one half",
        above(Rows(A, "share_of_tokens_steady_nonlinear", "Fig. 12"), 0.5),
    ),
    Claim(
        "bernoulli",
        "App. C.1",
        "Orthogonal features with Bernoulli weights: the squared norm is exactly linear",
        "ρ = 1",
        "the simulated correlation within 0.001 of 1",
        inside(Rows("B_modelling", "ρ, Bernoulli.*", "C.1"), 0.999, 1.001),
    ),
    Claim(
        "poisson",
        "App. C.1",
        "Poisson weights with λ = 1: the correlation is 0.73",
        "0.73",
        "the simulated correlation within 0.01 of 0.73",
        inside(Rows("B_modelling", "ρ, Poisson.*", "C.1"), 0.72, 0.74),
    ),
    Claim(
        "mean-activation",
        "App. C.2, Fig. 14",
        "The probe's product with a latent is the latent's mean activation",
        "equal",
        "the slope on either mean (over all tokens, over active tokens) lies within 0.2 of 1",
        inside(Rows("B_modelling", "slope: mean over (all|active) tokens", "14"), 0.8, 1.2),
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
    ),
    Claim(
        "second-regressor",
        "App. E, Fig. 16",
        "The nonlinear norm helps to predict a larger SAE's error norms",
        "decreases",
        "every pair: the decrease of FVU with squared norms above 0",
        above(Rows("E_scaling", r"fvu_decrease_nonlinear_power_2_\d+_to_\d+"), 0),
    ),
    Claim(
        "second-regressor-by",
        "App. E, Fig. 16",
        "It helps by up to 5 %",
        "up to 0.05",
        "the largest decrease within 0.02 of 0.05",
        inside(Rows("E_scaling", "largest_fvu_decrease_squared_norms"), 0.03, 0.07),
    ),
]
