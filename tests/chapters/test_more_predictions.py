"""Appendix A on a study: every row of its tables against the functions that make one number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dm_utils.chapters.A_more_predictions import baselines, learning_curve, shrinkage
from dm_utils.chapters.A_more_predictions.baselines import ACTIVATION, PAPER_BASELINES, PREDICTORS, TOKEN, Comparison
from dm_utils.maths.resampling import Split


@pytest.fixture(scope="module")
def ref(study):
    return study.sae(width=512)


@pytest.fixture(scope="module")
def table(study, ref):
    return baselines.compare_norm_predictors(study, [ref])


def test_every_predictor_is_judged_on_both_targets_straight_and_through_bins(study, ref, table) -> None:
    p, site = study.profile, study.site()
    targets, (straight, flexible) = baselines.error_norms(study, ref), baselines.predictions(study, ref)
    torch.testing.assert_close(targets[:, 0] ** 2, targets[:, 1])
    rows = table.set_index("predictor")
    assert list(rows.index) == list(PREDICTORS) and set(flexible) == set(baselines.SCALAR_NAMES)
    for column, target in enumerate(("norm", "norm2")):
        for name in PREDICTORS:
            guesses = {
                "x": straight[ACTIVATION][:, column],
                "own": straight[name][:, column],
                "bins": flexible.get(name, straight[name])[:, column],
            }
            judge = Comparison(targets[:, column], guesses, site.split, p.n_bootstrap, p.seed)
            known = {f"r2_{target}": judge.r2("own"), f"r2_{target}_binned": judge.r2("bins")}
            known |= {f"gap_{target}": judge.gap("x", "own")}
            for metric, estimate in known.items():
                found = rows.loc[name, [metric, f"{metric}_low", f"{metric}_high"]].tolist()
                assert found == pytest.approx([estimate.value, estimate.low, estimate.high], abs=1e-9), (name, metric)
        paper = {name: straight[name][:, column] for name in (ACTIVATION, *PAPER_BASELINES)}
        lead = Comparison(targets[:, column], paper, site.split, p.n_bootstrap, p.seed).gap_to_best(
            ACTIVATION, PAPER_BASELINES
        )
        assert rows.loc[ACTIVATION, f"lead_{target}_low"] == pytest.approx(lead.low, abs=1e-9)
        assert rows[f"lead_{target}"].notna().sum() == 1


def test_a_row_says_its_sae_and_how_many_identities_are_new(study, ref, table) -> None:
    site = study.site()
    seen, out = set(site.token_id[site.split.fit].tolist()), site.token_id[~site.split.fit].tolist()
    assert (table["n_unseen"] == sum(token not in seen for token in out)).all() and (
        table["n_held_out"] == len(out)
    ).all()
    about = {"sae_id": ref.id, "hook_name": ref.hook_name, "layer": 4, "component": "resid"}
    about |= {"architecture": ref.architecture, "d_sae": 512, "l0": ref.l0}
    assert table.iloc[0][list(about)].to_dict() == about


def test_more_regressors_fit_no_worse(study, ref) -> None:
    straight, _ = baselines.predictions(study, ref)
    targets, fit = baselines.error_norms(study, ref), study.site().split.fit
    left = {name: float((targets - guess)[fit].square().sum(0)[1]) for name, guess in straight.items()}
    assert left["everything together"] <= min(left[ACTIVATION], left["all but the activation"]) * (1 + 1e-6)
    assert left["all but the activation"] <= min(left[name] for name in (TOKEN, *baselines.SCALAR_NAMES)) * (1 + 1e-6)


def test_a_wide_row_has_a_column_per_predictor_and_target(table, ref) -> None:
    wide, metrics = baselines.wide(table)
    rows = table.set_index("predictor")
    assert len(metrics) == 2 * len(PREDICTORS) and len(wide) == 1
    assert wide["r2_norm2_from_SAE_L0_high"].item() == rows.loc["SAE L0", "r2_norm2_high"]
    assert wide[["sae_id", "hook_name", "layer", "d_sae", "l0"]].iloc[0].tolist() == [
        ref.id,
        ref.hook_name,
        4,
        512,
        ref.l0,
    ]


def test_tokens_are_listed_from_the_most_frequent_down_to_the_least_allowed(study, ref) -> None:
    site, error = study.site(), study.token_scalars(ref)["error_norm2"]
    ids, counts = np.unique(site.token_id.numpy(), return_counts=True)
    least = int(np.sort(counts)[-10])
    found = baselines.token_table(study, ref, least)
    assert found["count"].tolist() == sorted(counts[counts >= least], reverse=True)
    top = error[site.token_id.numpy() == ids[counts.argmax()]]
    row = found.iloc[0]
    assert row["token"] == study.token_text(torch.tensor([ids[counts.argmax()]]))[0]
    assert row[["mean", "low", "high"]].tolist() == pytest.approx([top.mean(), *np.quantile(top, [0.1, 0.9])], rel=1e-4)


def test_the_learning_curve_of_a_study_is_that_of_its_error_norm(study, ref) -> None:
    site, p = study.site(), study.profile
    found = learning_curve.norm_learning_curve(study, ref, (0.25, 1.0))
    norm = torch.from_numpy(study.token_scalars(ref)["error_norm2"]).double().sqrt()
    known = learning_curve.learning_curve(site.x, site.token_id, norm, site.split, (0.25, 1.0), p.n_bootstrap, p.seed)
    assert found.drop(columns="sae_id").to_dict("records") == known and set(found["sae_id"]) == {ref.id}
    whole = found[found["n_fit"] == int(site.split.fit.sum())].set_index("predictor")
    n_ids = len(site.token_id[site.split.fit].unique())
    assert (whole["per_identity"] == int(site.split.fit.sum()) / n_ids).all()
    assert whole.loc[ACTIVATION, "r2"] == pytest.approx(
        baselines.compare_norm_predictors(study, [ref]).set_index("predictor").loc[ACTIVATION, "r2_norm"], abs=1e-5
    )


def test_a_share_keeps_at_least_one_token_and_at_most_all() -> None:
    split = Split(torch.arange(40) % 2 == 0, torch.arange(40) // 8)
    kept, part = learning_curve.fewer_fitting_tokens(split, 1.0)
    assert (
        torch.equal(kept, torch.arange(40))
        and torch.equal(part.fit, split.fit)
        and torch.equal(part.group, split.group)
    )
    kept, part = learning_curve.fewer_fitting_tokens(split, 0.01, seed=3)
    assert int(part.fit.sum()) == 1 and torch.equal(part.group, split.group[kept])
    for share in (0, 1.01):
        with pytest.raises(ValueError, match=f"share = {share}"):
            learning_curve.fewer_fitting_tokens(split, share)


def test_shrinkage_has_a_row_per_sae_with_its_intervals(study, ref) -> None:
    row, p = shrinkage.shrinkage_table(study, [ref]).iloc[0], study.profile
    known = shrinkage.shrinkage(study.token_scalars(ref), study.site().split, p.n_bootstrap, p.seed)
    for metric, estimate in known.items():
        assert row[[metric, f"{metric}_low", f"{metric}_high"]].tolist() == [
            estimate.value,
            estimate.low,
            estimate.high,
        ]
    about = {"sae_id": ref.id, "hook_name": ref.hook_name, "layer": 4, "component": "resid"}
    about |= {"architecture": ref.architecture, "d_sae": 512, "l0": ref.l0}
    assert row[list(about)].to_dict() == about
