"""The verdicts of Section 4.3, at their thresholds: each over every L0."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from figures import figures

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.chapters.s04_3_dark_matter import findings
from dm_utils.engine.token_identity import BEYOND, X
from dm_utils.maths.resampling import Estimate


def around(value, half_width=0.001):
    return Estimate(value, value - half_width, value + half_width)


def fit(change=0.0, gap=0.02, lead=0.01):
    """The fits of one L0 with a known change of FVU_nonlinear per doubling, c − h, and lead of the linear part."""
    return SimpleNamespace(
        fvu=SimpleNamespace(constant=around(0.1), exponent=around(0.5), leave_one_out=np.array([0.1, 0.2]), note=""),
        fvu_trend=SimpleNamespace(per_doubling=around(-0.1)),
        fvu_nonlinear_level=SimpleNamespace(per_doubling=around(change), level=around(0.1)),
        linear_lead=around(lead),
        gap=lambda falling=False: around(gap),
    )


def suite(values=(0.3, 0.2, 0.1)):
    ends = {"fvu_nonlinear_low": [v - 0.01 for v in values], "fvu_nonlinear_high": [v + 0.01 for v in values]}
    return pd.DataFrame({"d_sae": 512, "near_l0": [4, 8, 16], "fvu_nonlinear": values, **ends})


def verdicts(*fits, main=None):
    names = ["constant", "l0", "above", "linear"]
    judged = findings.claims({float(4 * 2**i): one for i, one in enumerate(fits)}, suite() if main is None else main)
    return dict(zip(names, judged["Verdict"], strict=True))


def test_what_the_paper_says_holds_on_what_it_saw():
    assert set(verdicts(fit(), fit()).values()) == {HOLDS}


def test_roughly_constant_is_two_percent_per_doubling_with_the_interval():
    assert findings.roughly_constant(fit(change=0.019)) is True
    assert findings.roughly_constant(fit(change=-0.0195)) is None
    assert findings.roughly_constant(fit(change=-0.0215)) is False
    assert verdicts(fit(), fit(change=-0.05))["constant"] == PARTLY
    assert verdicts(fit(change=-0.05), fit(change=0.05))["constant"] == DIFFERS


def test_the_law_ends_above_the_line_where_the_interval_of_the_gap_is_positive():
    assert verdicts(fit(gap=0.0011), fit())["above"] == HOLDS
    assert verdicts(fit(gap=0.0009), fit(gap=0.0))["above"] == UNTESTABLE
    assert verdicts(fit(gap=0.0), fit(gap=-0.0011))["above"] == DIFFERS


def test_every_l0_counts_for_which_part_width_reduces_most():
    assert verdicts(fit(lead=0.0011), fit(lead=0.0011))["linear"] == HOLDS
    assert verdicts(fit(lead=0.0011), fit(lead=-0.0011))["linear"] == PARTLY  # reversed at the second L0
    assert verdicts(fit(lead=0.0009), fit(lead=-0.0011))["linear"] == DIFFERS
    assert verdicts(fit(), main=suite((0.3, 0.29, 0.28)))["l0"] == UNTESTABLE  # intervals overlap


def test_the_tables_and_the_list_say_what_was_judged():
    fits = {8.0: fit(change=-0.05), 16.0: fit(lead=-0.01)}
    assert findings.trends(fits)["FVU nonlinear is"].tolist() == ["not constant", "roughly constant"]
    assert findings.constants(fits)["The constant"].tolist() == ["identified", "identified"]
    measured = pd.DataFrame(
        {"d_sae": [512, 8192], "fvu": [0.2, 0.1], "fvu_nonlinear": [0.1, 0.08], "dead_fraction": 0.1}
    )
    said = findings.learned(fits[8.0], measured, findings.claims(fits, suite()), 8.0, 128)
    assert "from 50 to 80 % of what is unexplained" in said
    assert "As on Gemma 2 in some cases only: FVU nonlinear is roughly constant" in said


def test_the_headline_of_figure_1_is_about_the_widest_sae():
    table = pd.DataFrame({"d_sae": [512, 8192], "fvu": [0.3, 0.2], "fvu_nonlinear": [0.2, 0.15]})
    said = findings.headlines({16.0: table})
    assert said == {16.0: "L0 near 16, 8,192 latents: 20.0 % unexplained, 75 % of that nonlinear"}


def predicted(taken, half_width=0.01):
    """One SAE with FVU nonlinear 0.1, of which both tables take a share."""
    rows = [{"predictor": X, "sae_id": "one", "fvu": 0.1, "of_nonlinear": float("nan")}]
    rows += [
        {"predictor": both, "sae_id": "one", "fvu": 0.1 * (1 - taken), "of_nonlinear": taken}
        for both in BEYOND.values()
    ]
    table = pd.DataFrame(rows)
    for name in ("fvu", "of_nonlinear"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - half_width, table[name] + half_width
    return table


def test_most_of_the_nonlinear_error_is_tokens_only_if_more_than_half_is_with_its_interval():
    assert "goes from 0.100 [0.090, 0.110] to 0.080" in findings.beyond_tokens(predicted(0.2))
    assert "Less than half of NonlinearError is" in findings.beyond_tokens(predicted(0.489))
    assert "About half of NonlinearError is" in findings.beyond_tokens(predicted(0.491))
    assert "Most of NonlinearError is" in findings.beyond_tokens(predicted(0.511))


def told_apart():
    """One L0 whose every number is its own, and whose constant is not identified."""
    found = fit(change=-0.05, gap=0.02, lead=-0.01)
    found.fvu.note, found.fvu.leave_one_out = "three parameters", np.array([0.3, np.nan])
    found.gap = lambda falling=False: around(0.04 if falling else 0.02)
    return found


def test_every_column_of_the_tables_has_its_number():
    row = findings.trends({8.0: told_apart()}).iloc[0]
    assert [figures(words) for words in row] == [
        *("8", "0.100 0.099 0.101", "-5.0 % -5.1 -4.9", "-10.0 % -10.1 -9.9", "")
    ]
    row = findings.constants({8.0: told_apart(), 16.0: fit()})
    assert [figures(words) for words in row.iloc[0]] == [
        *(
            "8",
            "0.100 0.099 0.101",
            "0.500 0.499 0.501",
            "",
            "0.100 0.099 0.101",
            "0.020 0.019 0.021",
            "0.040 0.039 0.041",
            "",
        )
    ]
    assert row.iloc[:, 3].tolist() == ["too few SAEs", "0.100 to 0.200"]
    assert row["The constant"].tolist() == ["not identified", "identified"]


def test_each_claim_says_what_was_found_at_each_l0():
    found = findings.claims({8.0: told_apart(), 16.0: fit()}, suite()).iloc[:, 1]
    assert figures(found[0]) == "-5.0 % -5.1 -4.9 8 +0.0 % -0.1 +0.1 16"
    assert figures(found[2]) == "0.020 0.019 0.021 8 0.020 0.019 0.021 16"
    assert figures(found[3]) == "-0.0100 -0.0110 -0.0090 8 +0.0100 +0.0090 +0.0110 16"


def test_the_list_of_what_was_learned_has_both_ends_of_the_widths():
    measured = pd.DataFrame(
        {"d_sae": [512, 8192], "fvu": [0.2, 0.1], "fvu_nonlinear": [0.1, 0.08], "dead_fraction": [0.015, 0.25]}
    ).assign(sae_id="one")
    fits = {8.0: told_apart()}
    said = findings.learned(fits[8.0], measured, findings.claims(fits, suite()), 8.0, 128).splitlines()
    assert figures(said[0][2:]) == "0 8 512 8,192 4 64 0.200 0.100 0.100 0.080 50 80 %"
    assert figures(said[-1][2:]) == "1.5 % 25.0 %"
    assert figures(said[-2][2:]) == "0 8 0.100 0.099 0.101" and said[-2].endswith("three parameters.")


def by_length(*others, note=""):
    """Rows of `by_length`: at 1,600 steps c is 0.2 and 10 % are dead; each other length has a change, ± half, and a dead share."""
    rows = [{"steps": 1600, "tokens": 3200, "dead_fraction": 0.1, "note": note, **around(0.2).columns("constant")}]
    for at, (change, half, dead) in enumerate(others):
        row = {"steps": 400 * 2**at, "tokens": 800, "dead_fraction": dead, "note": ""}
        row |= around(change, half).columns("change") | around(0.2 + change).columns("constant")
        rows.append(row)
    table = pd.DataFrame(rows).assign(d_sae=8192, **around(0.125).columns("level"))
    return table if others else table.assign(change=np.nan)


def stays(change, half, dead):
    table = by_length((change, half, dead)).to_dict("records")
    return findings.stays(table[1], table[0])


def test_a_constant_stays_within_a_tenth_of_itself_while_the_dead_share_doubles_or_halves():
    assert stays(0.005, 0.0149, 0.2) is True
    assert stays(0.005, 0.0149, 0.05) is True
    assert stays(0.005, 0.0151, 0.2) is None  # its interval reaches beyond a tenth of 0.2
    assert stays(0.005, 0.0149, 0.199) is None
    assert stays(0.005, 0.0149, 0.051) is None
    assert stays(0.005, 0.0049, 0.2) is False  # it moves, however little
    assert stays(-0.005, 0.0049, 0.1) is False
    assert stays(0.005, 0.0051, 0.0) is True


def test_what_is_said_of_the_floor_counts_every_length():
    same, moved, open_ = (0.005, 0.0149, 0.2), (0.1, 0.01, 0.2), (0.005, 0.5, 0.2)
    assert "is no artefact of dead latents over these lengths" in findings.floor_and_dead(by_length(same, same))
    assert "do not tell whether it is an artefact" in findings.floor_and_dead(by_length(same, open_))
    assert "It depends on how long" in findings.floor_and_dead(by_length(same, moved))
    assert "It depends on how long" in findings.floor_and_dead(by_length(open_, moved))
    assert "do not tell whether it is an artefact" in findings.floor_and_dead(by_length())


def test_a_constant_that_is_not_identified_is_said_to_be():
    assert "identified" not in findings.floor_and_dead(by_length((0.005, 0.0149, 0.2)))
    assert "At 1,600 steps the constant itself is not identified." in findings.floor_and_dead(by_length(note="too few"))


def test_the_sentence_and_the_table_have_every_number_of_each_length():
    rows = by_length((0.03, 0.004, 0.25))
    said = findings.floor_and_dead(rows)
    assert figures(said) == "10.0 % 0.200 0.199 0.201 400 1,600 +0.0300 +0.0260 +0.0340 0.230 25.0 %"
    shown = findings.lengths_table(rows)
    assert [figures(words) for words in shown.iloc[1]] == [
        *("400", "0", "25.0 %", "0.230 0.229 0.231", "+0.0300 +0.0260 +0.0340", "0.125 0.124 0.126")
    ]
    assert shown.iloc[0, 4] == "–"


def test_the_dead_share_of_a_length_is_that_of_its_widest_sae():
    saes = pd.DataFrame(
        {"steps": [800, 400, 400], "tokens": [2, 1, 1], "d_sae": [512, 1024, 512], "dead_fraction": [0.0, 0.3, 0.2]}
    )
    found = findings.by_length(saes, pd.DataFrame({"steps": [800, 400], "constant": [0.1, 0.2]}))
    assert found[["steps", "d_sae", "dead_fraction", "constant"]].to_numpy().tolist() == [
        [400, 1024, 0.3, 0.2],
        [800, 512, 0.0, 0.1],
    ]
