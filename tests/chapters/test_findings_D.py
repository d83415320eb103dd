"""The rules of Appendix D's verdicts, at their thresholds."""

import pandas as pd
import pytest

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
