"""The claims of Sections 6 and 7."""

from __future__ import annotations

from dm_utils.chapters.scoreboard.rules import Claim, Rows, above, ahead, below, inside, wholly
from dm_utils.chapters.scoreboard.section_4 import PER_TOKEN

BETWEEN = r"R² of {} from (?!same).*: SAE reconstruction, alone"
REMOVED = r"R², variance-weighted of nonlinear from (?!same).*: SAE reconstruction, together with x"  # 1 − FVU_nl with it / without
PURSUIT = "06_1_pursuit"
CLAIMS = [
    Claim(
        "pursuit-fvu",
        "§6.1",
        "Gradient pursuit lowers the total FVU by 3 to 5 %",
        "0.03 to 0.05",
        "every width: the interval of the absolute decrease touches 0.03 to 0.05",
        inside(Rows(PURSUIT, "fvu_drop", "9a"), 0.03, 0.05),
    ),
    Claim(
        "pursuit-nonlinear",
        "abstract, §6.1",
        "Pursuit leaves FVU nonlinear almost unchanged",
        "very slight",
        "every width: the relative change within 5 %, interval included",
        wholly(Rows(PURSUIT, "fvu_nonlinear_drop_relative", "9a"), -0.05, 0.05),
    ),
    Claim(
        "own-output",
        "§6",
        "Sae(x) predicts half of the nonlinear error",
        "0.5",
        "R² within 0.1 of one half",
        inside(Rows("06_2_between_saes", "R² of nonlinear from same residual: SAE reconstruction, alone"), 0.4, 0.6),
    ),
    Claim(
        "previous-nonlinear",
        "§6",
        "SAEs of previous components predict 4 to 14 % of the nonlinear error",
        "0.04 to 0.14",
        "every component: the interval of R² touches 0.04 to 0.14",
        inside(Rows("06_2_between_saes", BETWEEN.format("nonlinear")), 0.04, 0.14),
    ),
    Claim(
        "previous-error",
        "§6",
        "SAEs of previous components predict 6 to 10 % of the error",
        "0.06 to 0.10",
        "every component: the interval of R² touches 0.06 to 0.10",
        inside(Rows("06_2_between_saes", BETWEEN.format("error")), 0.06, 0.10),
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
    ),
    Claim(
        "side-channel",
        "§7",
        "Some subspaces resist being learned: a low-rank dense side channel would take the linear error",
        "not reported",
        "a quarter of the dimensions hold nine tenths of the linear error",
        below(Rows("beyond_linear", "rank_for_90_percent, share of the dimensions"), 0.25),
    ),
    Claim(
        "forecast",
        "§7",
        "Small SAEs forecast the errors of larger ones",
        "predictable",
        "every pair of widths: R² of Eq. 13 (one scalar) above 0.9",
        above(PER_TOKEN, 0.9),
    ),
    Claim(
        "circuits",
        "§7",
        "Earlier SAEs explain part of the error, so circuits need smaller noise terms",
        "0.06 to 0.10",
        "every component: R² of the error above 0",
        above(Rows("06_2_between_saes", BETWEEN.format("error")), 0),
    ),
]
