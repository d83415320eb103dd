"""How the parts of each token's error change with the width: known lines, thresholds, and what the tables of a study hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dm_utils.base.names import PARTS
from dm_utils.engine import part_trends
from dm_utils.maths.resampling import Split, held_out_mean

WIDTHS = [512, 2048, 1024]
SPLIT = Split.random(torch.arange(400) // 20, seed=1)


def lines(percent: torch.Tensor) -> torch.Tensor:
    """Norms [sae, token] that change by so many percent per doubling of the width."""
    octaves = torch.tensor(WIDTHS, dtype=torch.float64).log2()[:, None] - 9
    return 3 * (1 + percent / 100) ** octaves


def test_shares_of_falling_and_steady_tokens_are_of_the_held_out_ones() -> None:
    change = torch.linspace(-20, 20, 400, dtype=torch.float64)
    found = part_trends.trend(lines(change), WIDTHS, SPLIT, tolerance=7.0)
    torch.testing.assert_close(found.per_doubling, change)
    out = change[~SPLIT.fit]
    assert found.mean.value == pytest.approx(float(out.mean()))
    assert found.falls.value == pytest.approx(float((out < 0).double().mean()))
    assert found.steady.value == pytest.approx(float((out.abs() < 7).double().mean()))
    logs = lines(change).log2()[:, ~SPLIT.fit]
    assert found.within == pytest.approx(
        float((logs - logs.mean(0)).square().mean() / (logs - logs.mean()).square().mean())
    )


def test_no_change_does_not_fall_and_the_resamples_are_those_asked_for() -> None:
    still = part_trends.trend(torch.full((3, 400), 2.0), WIDTHS, SPLIT)
    assert still.falls.value == 0 and still.steady.value == 1
    change = torch.linspace(-20, 20, 400, dtype=torch.float64)
    found = part_trends.trend(lines(change), WIDTHS, SPLIT, n_bootstrap=120, seed=5).mean
    known = held_out_mean(change, SPLIT, 120, 5)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        (torch.ones(3, 399), r"norms must be \[3, 400\]"),
        (torch.full((3, 400), math.nan), "norms: 1200 of 1200 values are NaN or Inf"),
        (torch.ones(3, 400).index_fill_(1, torch.tensor([7]), 0.0), "3 norms are zero"),
    ],
)
def test_norms_without_a_trend_are_refused(norms: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part_trends.trend(norms, WIDTHS, SPLIT)


@pytest.fixture(scope="module")
def refs(study):
    return [study.sae(width=1024), study.sae(width=512)]


def test_the_means_of_each_width_stand_beside_that_of_the_narrowest(study, refs) -> None:
    table, site, p = part_trends.width_table(study, refs), study.site(), study.profile
    assert table["d_sae"].tolist() == [512] * 3 + [1024] * 3 and table["part"].tolist() == [*PARTS] * 2
    means = {}
    for ref in refs:
        for part in PARTS:
            norms = torch.from_numpy(np.sqrt(study.token_scalars(ref)[f"{part}_norm2"]))
            means[ref.d_sae, part] = held_out_mean(norms, site.split, p.n_bootstrap, p.seed)
            row = table[(table["sae_id"] == ref.id) & (table["part"] == part)].iloc[0]
            known = means[ref.d_sae, part]
            assert row[["value", "low", "high"]].tolist() == pytest.approx([known.value, known.low, known.high])
            about = {"hook_name": ref.hook_name, "layer": 4, "architecture": ref.architecture, "l0": ref.l0}
            assert row[list(about)].to_dict() == about
    for part in PARTS:
        row = table[(table["d_sae"] == 1024) & (table["part"] == part)].iloc[0]
        assert row["relative"] == pytest.approx(means[1024, part].value / means[512, part].value)


def test_the_trends_of_a_study_are_those_of_its_norms(study, refs) -> None:
    found, p = part_trends.trends(study, refs, tolerance=3.0), study.profile
    for part in PARTS:
        norms = torch.from_numpy(np.stack([part_trends.part_norms(study, ref)[part] for ref in refs]))
        known = part_trends.trend(
            norms, [1024, 512], study.site().split, tolerance=3.0, n_bootstrap=p.n_bootstrap, seed=p.seed
        )
        assert (found[part].mean, found[part].steady, found[part].within) == (known.mean, known.steady, known.within)


def test_the_strip_shows_the_first_kept_tokens_of_a_context(study, refs) -> None:
    strip, site = part_trends.strip_tokens(study, refs, context=2, n_tokens=5), study.site()
    first = int((site.context < 2).sum())
    assert strip["sae"].unique().tolist() == ["512 latents", "1,024 latents"] and len(strip) == 10
    some = strip[strip["d_sae"] == 1024]
    assert some["token"].tolist() == study.token_text(site.token_id[first : first + 5])
    assert some["position"].tolist() == list(range(64, 69)) and some["index"].tolist() == list(range(5))
    for part in PARTS:
        assert some[part].to_numpy() == pytest.approx(part_trends.part_norms(study, refs[0])[part][first : first + 5])
    with pytest.raises(ValueError, match="context = 24: there are contexts 0 to 23"):
        part_trends.strip_tokens(study, refs, context=24)


def test_the_values_of_the_strip_are_of_whole_contexts(study, refs) -> None:
    contexts, values = part_trends.strip_values(study, refs, n_contexts=2)
    kept = study.profile.kept_per_context
    assert [len(tokens) for tokens in contexts] == [kept, kept] and list(values) == ["512 latents", "1,024 latents"]
    assert contexts[1] == study.token_text(study.site().token_id[kept : 2 * kept])
    titles = {
        "norm of the SAE error": "error",
        "norm of its linear part": "linear",
        "norm of its nonlinear part": "nonlinear",
    }
    for title, part in titles.items():
        assert (values["1,024 latents"][title] == part_trends.part_norms(study, refs[0])[part][: 2 * kept]).all()
    assert set(values["512 latents"]) == set(titles)
