"""FVU by position: bins that double, a planted dependence, and the ratio of early to later positions."""

import pytest
import torch

from dm_utils.chapters.s04_1_error_norms import charts, positions
from dm_utils.chapters.s04_1_error_norms.findings import early_tokens
from dm_utils.engine.study import Study
from dm_utils.maths.resampling import Estimate

CONTEXTS, LENGTH = 30, 20
POSITION = torch.arange(1, LENGTH + 1).repeat(CONTEXTS)
CONTEXT = torch.arange(CONTEXTS).repeat_interleave(LENGTH)


def measured(error2, early=4):
    spread2 = 1 + torch.rand(len(POSITION), generator=torch.Generator().manual_seed(0))
    return positions.fvu_by_position(error2 * spread2, spread2, CONTEXT, POSITION, early, 200)


def test_bins_double_and_cover_every_position():
    rows, _ = measured(torch.full(POSITION.shape, 0.2))
    assert [(row["first"], row["last"]) for row in rows] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 20)]
    assert all(row[name] == pytest.approx(0.2) for row in rows for name in ("value", "low", "high"))


def test_a_planted_dependence_on_the_position_is_found():
    rows, ratio = measured(torch.where(POSITION < 4, 0.1, 0.2))
    assert [row["value"] for row in rows] == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.2])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


def test_words_follow_the_interval():
    assert "easier" in early_tokens(Estimate(0.9, 0.8, 0.99), 64) and "harder" in early_tokens(
        Estimate(1.1, 1.01, 1.2), 64
    )
    assert "not told apart" in early_tokens(Estimate(1.0, 0.9, 1.1), 64)


def test_a_study_is_measured_with_the_positions_that_it_leaves_out(study):
    bins, ratio = positions.by_position(study, study.sae())
    assert bins["first"].iloc[0] == 1 and bins["last"].iloc[-1] == study.profile.ctx_len - 2
    assert 0 < ratio.low <= ratio.value <= ratio.high
    assert charts.by_position(bins, study.profile.skip).to_dict()


def test_early_are_the_positions_that_are_left_out_or_the_first_quarter(study):
    """The lab leaves out 64 of 256; where nothing but BOS is left out, early is the first quarter: the same 64."""
    whole = Study(study.profile.with_overrides(skip=1), study.store)
    site, error2 = whole.site(), torch.from_numpy(whole.token_scalars(whole.sae())["error_norm2"]).double()
    spread2 = (site.x - site.x[site.split.fit].mean(0)).double().square().sum(1)
    early = site.position < 64
    share = [float(error2[some].sum() / spread2[some].sum()) for some in (early, ~early)]
    for given in (study, whole):
        bins, ratio = positions.by_position(given, given.sae())
        assert ratio.value == pytest.approx(share[0] / share[1], rel=1e-4)
        first = site.position == 1
        assert bins["value"].iloc[0] == pytest.approx(float(error2[first].sum() / spread2[first].sum()), rel=1e-4)
