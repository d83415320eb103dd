"""The claims of Section 5."""

from __future__ import annotations

from dm_utils.chapters.scoreboard.rules import Claim, Rows, above, ahead, close, inside

DOWNSTREAM = "05_3_downstream"
NORM_TEST = {
    part: Rows("05_1_norm_test", f"r2_{part}_norm", "6") for part in ("x", "sae", "error", "linear", "nonlinear")
}
CLAIMS = [
    Claim(
        "x-norm",
        "§5.1, Fig. 6",
        "The squared norm of x is almost perfectly predicted from x",
        "about 1",
        "every site: R² above 0.95",
        above(NORM_TEST["x"], 0.95),
    ),
    Claim(
        "nonlinear-test",
        "§5.1, Fig. 6",
        "NonlinearError scores notably lower in the norm test than LinearError",
        "lower",
        "every SAE: R² of the nonlinear part's norm below the linear part's, intervals apart",
        ahead(NORM_TEST["linear"], NORM_TEST["nonlinear"]),
    ),
    Claim(
        "error-test",
        "§5.1, Fig. 6",
        "SaeError, too, scores lower than LinearError",
        "lower",
        "every SAE: R² of the error's norm below the linear part's, intervals apart",
        ahead(NORM_TEST["linear"], NORM_TEST["error"]),
    ),
    Claim(
        "harder",
        "abstract, §5.2",
        "An SAE trained on NonlinearError reaches a higher FVU than one trained on LinearError",
        "+0.05",
        "the difference lies above 0",
        above(Rows("05_2_saes_on_error", "FVU, NonlinearError minus LinearError"), 0),
    ),
    Claim(
        "harder-by",
        "§5.2",
        "It is higher by an absolute 5 %",
        "0.05",
        "the difference within 0.03 of 0.05",
        inside(Rows("05_2_saes_on_error", "FVU, NonlinearError minus LinearError"), 0.02, 0.08),
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
    ),
    Claim(
        "interpretable",
        "§5.2, Fig. 7",
        "Latents of the SAE on LinearError are more interpretable",
        "+5 %",
        "balanced accuracy, linear minus nonlinear, above 0 (rules about tokens unless a language model explains)",
        above(Rows("05_2_saes_on_error", "accuracy by .*, balanced, linear minus nonlinear", "7"), 0),
    ),
    Claim(
        "proportional-nonlinear",
        "abstract, §5.3",
        "NonlinearError costs cross-entropy in proportion to its share of the variance",
        "proportional",
        "every SAE: loss recovered and share of variance within 0.1",
        close(Rows(DOWNSTREAM, "ce_recovered_nonlinear", "8"), Rows(DOWNSTREAM, "share_variance_nonlinear", "8"), 0.1),
    ),
    Claim(
        "proportional-linear",
        "§5.3, Fig. 8",
        "LinearError costs cross-entropy in proportion to its share of the variance",
        "proportional",
        "every SAE: loss recovered and share of variance within 0.1",
        close(Rows(DOWNSTREAM, "ce_recovered_linear", "8"), Rows(DOWNSTREAM, "share_variance_linear", "8"), 0.1),
    ),
    Claim(
        "linear-more",
        "§5.3",
        "LinearError contributes slightly more than expected",
        "slightly more",
        "every SAE: loss recovered above the share of variance, intervals apart",
        ahead(Rows(DOWNSTREAM, "ce_recovered_linear", "8"), Rows(DOWNSTREAM, "share_variance_linear", "8")),
    ),
]
