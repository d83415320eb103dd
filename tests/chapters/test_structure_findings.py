"""The verdicts of "Structure or noise?", at their thresholds."""

import math

import pandas as pd
import pytest

from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.chapters.structure import charts, findings
from dm_utils.chapters.structure.coding import LEARNED, OWN
from dm_utils.chapters.structure.components import COMPONENTS, DECODER, RANDOM
from dm_utils.chapters.structure.experiment import PREDICTORS, SHOWN, TARGETS
from dm_utils.chapters.structure.measures import CODING, DIMENSION, KURTOSIS, PARTICIPATION, SAVED
from dm_utils.chapters.structure.planted import CURVED, LOUD, NOISE, SPARSE
from dm_utils.chapters.structure.twins import ELLIPTICAL, GAUSSIAN, ITSELF, KINDS, TWINS


def row(kind, test, value, case="", l0=math.nan, half=0.1):
    return {
        "kind": kind,
        "test": test,
        "case": case,
        "l0": l0,
        "value": value,
        "low": value - half,
        "high": value + half,
    }


def cloud(peaked=2.0, loud=0.5, saved=(0.3, 0.2), dimension=5.0, own=0.3, along=1.5):
    """The rows of one cloud; its twins have kurtosis 0 and `loud`, dimension 20 and 21, random directions `loud`."""
    rows = [
        row(ITSELF, KURTOSIS, peaked, COMPONENTS),
        row(ITSELF, KURTOSIS, loud, RANDOM),
        row(ITSELF, KURTOSIS, along, DECODER),
    ]
    for twin, kurtosis, flat in ((GAUSSIAN, 0.0, 20.0), (ELLIPTICAL, loud, 21.0)):
        rows += [row(twin, KURTOSIS, kurtosis, case) for case in (COMPONENTS, RANDOM, DECODER)]
        rows.append(row(twin, DIMENSION, flat))
    rows += [row(kind, PARTICIPATION, 10.0) for kind in KINDS] + [row(ITSELF, DIMENSION, dimension)]
    for l0, value in zip((1.0, 4.0), saved, strict=True):
        rows += [
            row(ITSELF, SAVED, value, LEARNED, l0, 0.01),
            row(ITSELF, CODING, 0.5 * (1 - value), LEARNED, l0, 0.01),
        ]
        rows.append(row(GAUSSIAN, CODING, 0.5, LEARNED, l0, 0.01))
    own_rows = [
        row(ITSELF, SAVED, own, OWN, 4.0, 0.01),
        *(row(kind, CODING, 0.4, OWN, 4.0, 0.01) for kind in KINDS[:2]),
    ]
    return pd.DataFrame(rows + own_rows)


NOTHING = {"peaked": 0.5, "saved": (0.0, 0.0), "dimension": 20.0, "own": 0.0, "along": 0.5}


def vectors(**of):
    return pd.concat(cloud(**of.get(name, {})).assign(vector=name) for name in SHOWN)


def plants(**of):
    return pd.concat(
        cloud(**of.get(name, {} if name in (SPARSE, CURVED) else NOTHING)).assign(plant=name)
        for name in (SPARSE, NOISE, LOUD, CURVED)
    )


def correlations(rho=0.9, p=0.01):
    return pd.DataFrame(
        [{"predictor": a, "target": b, "n": 6, "rho": rho, "p": p} for a in PREDICTORS for b in TARGETS]
    )


def layers(n=6):
    numbers = {name: [float(i + 1) for i in range(n)] for name in (*PREDICTORS, *TARGETS)}
    ends = {f"{name}_{end}": values for name, values in numbers.items() for end in ("low", "high")}
    return pd.DataFrame({"layer": range(n)} | numbers | ends)


def test_each_test_stands_only_where_intervals_are_apart():
    assert findings.structure(cloud()) == [True, True, True]
    assert findings.structure(cloud(**NOTHING)) == [None, None, None]
    assert findings.structure(cloud(peaked=0.69))[0] is None and findings.structure(cloud(peaked=0.71))[0] is True
    assert findings.structure(cloud(saved=(0.3, 0.009)))[1] is None
    assert findings.structure(cloud(saved=(0.3, 0.011)))[1] is True
    assert (
        findings.structure(cloud(dimension=19.81))[2] is None and findings.structure(cloud(dimension=19.79))[2] is True
    )


def test_a_test_fails_where_the_twin_has_more():
    found = findings.structure(cloud(peaked=0.25, saved=(0.3, -0.02), dimension=25.0))
    assert found == [
        False,
        False,
        False,
    ]  # peaked above the Gaussian twin, and below the elliptical one: loudness is not structure


def test_verdicts_where_everything_is_clear():
    weak = {"peaked": 1.0, "saved": (0.1, 0.1), "dimension": 15.0, "own": 0.1}
    found = findings.claims(vectors(nonlinear=weak), plants(), correlations())
    assert found["Verdict"].tolist() == [HOLDS] * len(found)
    assert len(found) == 1 + len(SHOWN) + 2 + len(PREDICTORS)


def test_structure_in_part_and_in_none():
    part = findings.claims(vectors(nonlinear={"peaked": 0.5}), plants(), correlations()).set_index("Question")[
        "Verdict"
    ]
    assert part["NonlinearError has structure beyond its twins"] == PARTLY
    none = {"peaked": 0.2, "saved": (-0.1, -0.1), "dimension": 30.0}
    found = findings.claims(vectors(nonlinear=none), plants(), correlations()).set_index("Question")["Verdict"]
    assert found["NonlinearError has structure beyond its twins"] == DIFFERS
    blurred = findings.claims(vectors(nonlinear=NOTHING), plants(), correlations()).set_index("Question")["Verdict"]
    assert blurred["NonlinearError has structure beyond its twins"] == UNTESTABLE


def test_a_test_that_finds_structure_in_noise_spoils_the_control():
    assert findings.verdict(findings.planted(plants())) == HOLDS
    assert findings.verdict(findings.planted(plants(**{NOISE: {}}))) == PARTLY
    assert False in findings.planted(plants(**{LOUD: NOTHING | {"peaked": 2.0}}))
    assert findings.planted(plants(**{SPARSE: NOTHING}))[:3] == [None, None, None]


def test_less_structure_is_less_in_every_test():
    assert findings.less(cloud(peaked=1.0, saved=(0.1, 0.1), dimension=9.0), cloud()) == [True, True, True]
    assert findings.less(cloud(), cloud()) == [None, None, None]
    assert findings.less(cloud(), cloud(peaked=1.0, saved=(0.1, 0.1), dimension=9.0)) == [False, False, False]


def test_the_decoder_counts_above_noise_random_directions_and_loudness():
    assert findings.own(cloud()) == [True, True]
    assert findings.own(cloud(own=0.009, along=0.69)) == [None, None]
    assert findings.own(cloud(own=-0.02, along=0.2)) == [False, False]


@pytest.mark.parametrize(
    ("rho", "p", "expected"),
    [(0.9, 0.049, True), (-0.9, 0.049, False), (0.9, 0.05, None), (math.nan, math.nan, None)],
)
def test_a_predictor_counts_where_shuffled_layers_rarely_reach_it(rho, p, expected):
    for predictor in PREDICTORS:
        assert findings.predicts(correlations(rho, p), predictor) == [expected, expected]


def test_sentences_follow_the_tables():
    strong, noise = vectors(), vectors(nonlinear=NOTHING)
    assert "in every test" in findings.learned(strong, correlations())
    assert "in no test that can tell" in findings.learned(noise, correlations())
    assert "does not clearly order" in findings.learned(strong, correlations(0.5, 0.3))
    assert "only loud and quiet" in findings.loudness(cloud())
    assert "A curved sheet, which has no features" in findings.plants(plants())
    assert "passes only some" in findings.plants(plants(**{CURVED: NOTHING}))
    assert "Depth alone has +1.00" in findings.layers(layers(), correlations())
    assert "needs four" in findings.layers(layers(1), correlations(math.nan, math.nan))
    assert "fewer than four layers" in set(
        findings.claims(strong, plants(), correlations(math.nan, math.nan))["This run"]
    )
    assert "x 20.0 to 30.0 % (the SAE's decoder: 30.0 %)" in findings.codes(strong)


def test_the_planted_table_says_what_is_found():
    table = findings.planted_table(plants()).set_index("Planted")
    assert table.loc[SPARSE, "Dimension"] == "found" and table.loc[NOISE, "Components"] == "unclear"


def test_every_chart_is_drawn_from_its_table():
    spectrum = pd.DataFrame(
        [{"vector": v, "kind": k, "direction": 1, "share": 1.0} for v in SHOWN for k in (ITSELF, *TWINS)]
    )
    drawn = [
        charts.spectra(spectrum),
        *(draw(vectors()) for draw in (charts.kurtosis, charts.codes, charts.dimensions)),
    ]
    for chart in [*drawn, charts.over_layers(layers())]:
        assert chart.to_dict()["$schema"]
