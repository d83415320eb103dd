"""The rules of Appendix D's verdicts, at their thresholds."""

import pandas as pd
import pytest
from figures import figures

from dm_utils.chapters.D_random_data import findings
from dm_utils.chapters.D_random_data.experiment import CASES


@pytest.mark.parametrize(("bend", "word"), [(0.91, "holds"), (1.09, "holds"), (0.89, "differs"), (1.11, "differs")])
def test_a_curve_is_the_parabola_within_a_tenth(bend, word):
    assert findings.is_parabola(bend) == word


def sweep(**ends: tuple[float, float]) -> pd.DataFrame:
    titles = {
        "sparsity": "sparsity at equal variances (L0)",
        "singly": "cosine within clusters, masking features singly",
        "whole": "cosine within clusters, masking whole clusters",
        "concentration": "concentration of the variance",
        "crowding": "features per dimension",
    }
    rows = [
        {"property": titles[name], "bend": bend, "leverage": 1 - bend - 0.02}
        for name in titles
        for bend in ends.get(name, (0.9, 0.9))
    ]
    return pd.DataFrame(rows)


def test_a_property_acts_if_it_moves_the_bend_by_more_than_a_tenth():
    assert findings.acts(sweep(sparsity=(0.8, 0.91)), "sparsity")
    assert not findings.acts(sweep(sparsity=(0.8, 0.89)), "sparsity")
    assert not findings.acts(sweep(whole=(0.1, 0.9)), "cosine within clusters, masking features")
    lines = findings.properties(sweep(whole=(0.1, 0.9)))
    assert "**Sparsity, at equal variances**: no effect, bend 0.90." in lines
    assert sum("acts, bend 0.10 to 0.90" in line for line in lines) == 1


def bends(*values: float) -> pd.DataFrame:
    rows = [{"case": case, "order": "random", "bend": value} for case, value in zip(CASES, values, strict=True)]
    return pd.DataFrame([*rows, {"case": CASES[0], "order": "rarest first", "bend": 9.0}])


def test_the_ingredient_that_straightens_most_is_named():
    assert "**firing together**" in findings.ingredients(bends(0.9, 0.7, 0.7, 0.7, 0.3), 2000, 128, 0.3)
    assert "**the concentration of variance on few latents**" in findings.ingredients(
        bends(0.9, 0.4, 0.3, 0.3, 0.2), 2000, 128, 0.3
    )


def test_the_leverage_sentence_leaves_out_whole_clusters():
    table = sweep()
    table.loc[table["property"].str.contains("whole"), "leverage"] = 0.9
    assert "at most 0.020" in findings.leverage(table)


def test_statements_ask_every_mask_that_the_claim_speaks_of():
    def verdicts(real: float, **ends: tuple[float, float]) -> list[str]:
        return findings.statements(0.96, sweep(**ends), bends(0.9, 0.7, 0.7, 0.7, real))["Verdict"].tolist()

    assert verdicts(0.1) == ["holds", "differs", "differs", "holds"]
    assert verdicts(0.11, sparsity=(0.1, 0.9), whole=(0.1, 0.9)) == ["holds", "holds", "partly", "differs"]


def test_the_top_of_the_curve_is_that_of_equal_frequencies_masked_at_random():
    rows = [("equal", "random", 0.4, 0.21), ("equal", "random", 0.6, 0.23), ("equal", "rarest first", 0.5, 0.9)]
    rows += [("exponent 1", "random", 0.3, 0.8)]
    said = findings.top_of(pd.DataFrame(rows, columns=["case", "order", "fvu", "fvu_nonlinear"]))
    assert figures(said) == "0.60 0.230 0.240"


def test_the_ingredients_are_told_with_their_falls():
    said = findings.ingredients(bends(0.9, 0.6, 0.65, 0.62, 0.3), 2000, 128, 0.25)
    assert figures(said) == "2,000 0.25 0.06 0.75 3 0.65 4 0.62 +0.30 -0.05 +0.32 firing together"
    assert findings.falls(bends(0.9, 0.6, 0.65, 0.62, 0.3)) == pytest.approx(
        dict(zip(findings.NAMES, (0.3, -0.05, 0.32), strict=True))
    )
    assert findings.at_random(bends(5, 4, 3, 2, 1)) == [5, 4, 3, 2, 1]


def test_every_property_is_told_with_its_own_bends():
    found = sweep(
        sparsity=(0.1, 0.2), singly=(0.3, 0.9), whole=(0.4, 0.8), concentration=(0.5, 0.7), crowding=(0.6, 0.65)
    )
    assert [line.split(": ")[1] for line in findings.properties(found)] == [
        "no effect, bend 0.10 to 0.20.",
        "acts, bend 0.30 to 0.90.",
        "acts, bend 0.40 to 0.80.",
        "acts, bend 0.50 to 0.70.",
        "no effect, bend 0.60 to 0.65.",
    ]
    assert "Over the 8 settings" in findings.leverage(found)


def test_each_claim_says_what_it_found_and_what_was_learned_names_what_helps():
    acting, still = sweep(singly=(0.1, 0.9), sparsity=(0.1, 0.9)), sweep(whole=(0.1, 0.9))
    found = findings.statements(0.96, acting, bends(0.9, 0.7, 0.7, 0.7, 0.25))["This run"].tolist()
    assert found == ["bend 0.96", "acts", "singly: acts; by clusters: no effect", "bend 0.25"]
    assert findings.statements(0.96, still, bends(1, 1, 1, 1, 1))["This run"].tolist()[1:3] == [
        "no effect",
        "singly: no effect; by clusters: acts",
    ]
    first, second, third = findings.lessons(0.96, acting, bends(0.9, 0.7, 0.7, 0.7, 0.25))
    assert figures(first) == "holds 0.96" and "0.25 of the parabola" in third
    assert "Sparsity alone moves the curve" in second
    assert second.endswith(f"more than 0.1: {findings.NAMES[0]} and {findings.NAMES[2]}.")
    none = findings.lessons(0.5, still, bends(1, 1, 1, 1, 1))[1]
    assert "does not move the curve" in none and none.endswith("more than 0.1: nothing.")
