"""Specification of Section 6.2: predicting parts of the error from neighbours, and what is built in."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny_models import ARCHITECTURES, VOCABULARY, boot

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.s06_2_between_saes import built_in
from dm_utils.chapters.s06_2_between_saes import experiment as between
from dm_utils.engine.study import Parts
from dm_utils.maths.resampling import Split
from dm_utils.maths.vector_r2 import vector_r2


def planted_parts(nonlinear, n_token=6000, d=4, seed=0):
    """Parts of an SAE whose output is a known affine map of x plus a given part; that part is first made uncorrelated."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n_token, d, generator=rng, dtype=torch.float64)
    r = nonlinear(x, rng)
    split = Split.random(torch.arange(n_token) * 60 // n_token, seed=seed)
    x1 = torch.cat([x, torch.ones(n_token, 1, dtype=x.dtype)], 1)
    r = r - x1 @ torch.linalg.lstsq(x1[split.fit], r[split.fit]).solution
    linear = 0.3 * x @ torch.randn(d, d, generator=rng, dtype=x.dtype)
    return Parts(x, x - linear + r, linear - r, linear, -r), split


def noise(x, rng):
    return 0.7 * torch.randn(x.shape, generator=rng, dtype=x.dtype)


def kinks(x, rng):
    return (x @ torch.randn(4, 4, generator=rng, dtype=x.dtype)).relu() - 0.5 * x.abs()


def test_vector_r2_equals_scikit_learn():
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    parts, split = planted_parts(kinks)
    z = torch.cat([parts.sae_out, parts.x.square()], 1)
    (mean, weighted), *_ = vector_r2(z, between.part_targets(parts), split)
    y, fit, out = parts.sae_error.numpy(), split.fit.numpy(), ~split.fit.numpy()
    predicted = LinearRegression().fit(z.numpy()[fit], y[fit]).predict(z.numpy()[out])
    assert mean.value == pytest.approx(r2_score(y[out], predicted), abs=1e-9)
    assert weighted.value == pytest.approx(r2_score(y[out], predicted, multioutput="variance_weighted"), abs=1e-9)
    assert mean.low < mean.value < mean.high


def test_every_part_is_predicted_as_if_alone():
    parts, split = planted_parts(kinks)
    together = vector_r2(parts.sae_out, between.part_targets(parts), split)
    for found, part in zip(together, (parts.sae_error, parts.linear_error, parts.nonlinear_error), strict=True):
        alone = vector_r2(parts.sae_out, lambda rows, part=part: part[None, rows], split)[0]
        assert found[0].value == pytest.approx(alone[0].value, abs=1e-9)


def test_arithmetic_in_one_dimension_is_the_share_of_the_noise():
    rng = torch.Generator().manual_seed(0)
    a, r = 2 * torch.randn(200_000, 1, generator=rng), torch.randn(200_000, 1, generator=rng)
    for scale in (0.5, 1.0, 3.0):
        expected = scale**2 / (4 + scale**2)
        assert built_in.arithmetic_r2(a, r, scale)[0] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("nonlinear", [noise, kinks])
def test_predicting_the_nonlinear_part_from_sae_is_arithmetic_whether_it_is_noise_or_a_function_of_x(nonlinear):
    parts, split = planted_parts(nonlinear)
    found = built_in.built_in(parts, split)
    mean, weighted = found["arithmetic"]
    assert 0.1 < mean < 0.9
    assert found["measured"][0].value == pytest.approx(mean, abs=0.03)
    assert found["shuffled"][0].value == pytest.approx(mean, abs=0.03)
    assert found["measured"][1].value == pytest.approx(weighted, abs=0.03)


def test_the_shuffled_part_is_no_function_of_its_token():
    """A part that still goes with x beats the formula, which takes the two as uncorrelated; moved to another token it no longer does."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(6000, 4, generator=rng, dtype=torch.float64)
    r = 0.8 * x + noise(x, rng)
    none = torch.zeros_like(x)
    found = built_in.built_in(Parts(x, x + r, -r, none, -r), Split.random(torch.arange(6000) // 100))
    assert found["measured"][0].value > found["arithmetic"][0] + 0.1
    assert found["shuffled"][0].value == pytest.approx(found["arithmetic"][0], abs=0.03)


def test_the_turned_part_is_turned_in_both_places():
    """Variances that differ by direction: the formula says another score for the part as it is than for the part turned."""
    parts, split = planted_parts(lambda x, rng: noise(x, rng) * torch.tensor([0.1, 0.3, 1, 3], dtype=x.dtype))
    found = built_in.built_in(parts, split, seed=3)
    turned = parts.nonlinear_error @ built_in.random_rotation(4, 3).double()
    expected = built_in.arithmetic_r2((parts.x - parts.linear_error)[split.fit], turned[split.fit])
    assert abs(expected[0] - found["arithmetic"][0]) > 0.05
    assert found["rotated"][0].value == pytest.approx(expected[0], abs=0.03)
    assert found["rotated"][1].value == pytest.approx(expected[1], abs=0.03)


def test_with_x_beside_it_sae_predicts_the_nonlinear_part_perfectly_and_x_alone_not_at_all():
    parts, split = planted_parts(kinks)
    both = vector_r2(torch.cat([parts.x, parts.sae_out], 1), between.part_targets(parts), split)
    alone = vector_r2(parts.x, between.part_targets(parts), split)
    assert both[2][0].value == pytest.approx(1, abs=1e-9)
    assert alone[2][0].value == pytest.approx(0, abs=0.01)
    assert alone[1][0].value == pytest.approx(1, abs=1e-9)


def test_shuffling_stays_on_its_side_of_the_split():
    split = Split.random(torch.arange(1000) // 20, seed=1)
    order = built_in.shuffled_within(split)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(split.fit[order], split.fit)
    assert (order != torch.arange(1000)).float().mean() > 0.9


def test_a_random_rotation_keeps_lengths_and_depends_on_its_seed():
    q = built_in.random_rotation(16, seed=3)
    torch.testing.assert_close(q @ q.T, torch.eye(16), atol=1e-5, rtol=0)
    assert not torch.allclose(q, built_in.random_rotation(16, seed=4))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_residual_identity_holds_in_the_same_layer_only(architecture, tmp_path):
    model = boot(architecture, tmp_path)
    contexts = torch.randint(0, VOCABULARY, (2, 16))
    same, before = between.residual_identity(model, contexts, 2).itertuples()
    assert ("RMSNorm" in same.equality) == (architecture == "gemma2")
    assert same[2] < 20 * same.rounding_unit
    assert before[2] > 1e-3
    with pytest.raises(ParameterError, match=r"Eq\. 16 holds between layers, 1 to 3"):
        between.residual_identity(model, contexts, 0)


def test_neighbours_are_the_sites_of_the_identity_in_both_readings(study):
    ref = study.sae(width=2048)
    found, lacking = between.neighbours(study, ref)
    assert not lacking
    sites = {(n.ref.component, n.ref.layer): n.reading for n in found}
    assert sites == {
        ("resid", 4): "both",
        ("resid", 3): "both",
        ("mlp", 3): "the layer before",
        ("att", 3): "the layer before",
        ("mlp", 4): "the same layer",
        ("att", 4): "the same layer",
    }
    with pytest.raises(ParameterError, match=r"Eq\. 16 needs a residual stream after layer 0"):
        between.neighbours(study, study.sae(layer=0))


def test_the_table_holds_what_must_be_and_is_kept(study, monkeypatch):
    ref = study.sae(width=2048)
    found = [n for n in between.neighbours(study, ref)[0] if n.name in ("same residual", "attention, same layer")]
    parts = study.parts(ref)
    table = between.predict_parts(study, ref, found, parts)
    cell = table.set_index(["neighbour", "kind", "given", "target"])["r2"]
    raw, own = between.KINDS[1], between.KINDS[0]
    assert cell["same residual", raw, between.ALONE, "linear"] == pytest.approx(1, abs=1e-4)
    assert cell["same residual", raw, between.ALONE, "nonlinear"] == pytest.approx(0, abs=0.06)
    assert cell["same residual", own, between.WITH_X, "error"] == pytest.approx(1, abs=1e-3)
    assert cell["attention, same layer", own, between.WITH_X, "linear"] == pytest.approx(1, abs=1e-4)
    assert len(table) == 3 * (3 + 4)
    monkeypatch.setattr(between, "vector_r2", lambda *_, **__: pytest.fail("computed again"))
    assert between.predict_parts(study, ref, found, parts).equals(table)


def test_scores_have_the_studys_intervals_and_say_where_they_come_from(study):
    ref, p = study.sae(width=2048), study.profile
    near = next(n for n in between.neighbours(study, ref)[0] if n.name == "previous residual")
    parts = study.parts(ref)
    table = between.predict_parts(study, ref, [near], parts)
    out = torch.cat([out for _, _, out in study.reconstructions(near.ref)])
    regressors = {between.KINDS[0]: out, between.KINDS[1]: study.site(near.ref.layer).x}
    for kind, z in regressors.items():
        known = between.vector_r2(
            z, between.part_targets(parts), study.site().split, n_bootstrap=p.n_bootstrap, seed=p.seed
        )
        rows = table[(table["kind"] == kind) & (table["given"] == between.ALONE)].set_index("target")
        for target, (mean, weighted) in zip(between.PARTS, known, strict=True):
            found = rows.loc[target]
            assert found[["r2", "r2_low", "r2_high"]].tolist() == pytest.approx(
                [mean.value, mean.low, mean.high], abs=1e-6
            )
            assert found["r2_weighted_low"] == pytest.approx(weighted.low, abs=1e-6)
    about = {"neighbour": near.name, "reading": "both", "sae_id": near.ref.id, "layer": 3, "component": "resid"}
    about |= {"hook_name": near.ref.hook_name, "architecture": "topk", "d_sae": 2048, "l0": near.ref.l0}
    assert (table[list(about)] == pd.Series(about)).all().all()


def test_without_an_sae_at_a_neighbouring_site_there_is_nothing_to_compare(study):
    def only(**where):
        if where["component"] != "resid" or where["layer"] != 4:
            raise ParameterError("none there")
        return study.sae(**where)

    ref = study.sae(width=2048)
    lone = SimpleNamespace(sae=only, profile=study.profile)
    with pytest.raises(ParameterError, match=r"an SAE at a neighbouring site is needed .previous residual; MLP"):
        between.neighbours(lone, ref)
    with pytest.raises(ParameterError, match=r"Eq\. 16 needs a residual stream"):
        between.neighbours(study, study.sae(component="mlp", layer=4))

    def residual(**where):
        if where["component"] != "resid":
            raise ParameterError("none there")
        return study.sae(**where)

    found, lacking = between.neighbours(SimpleNamespace(sae=residual, profile=study.profile), ref)
    assert [(n.name, n.ref.layer, n.ref.d_sae, n.ref.l0) for n in found] == [
        ("same residual", 4, 2048, ref.l0),
        ("previous residual", 3, 2048, ref.l0),
    ]
    assert lacking == ["MLP, layer before", "attention, layer before", "MLP, same layer", "attention, same layer"]


def test_controls_have_the_seed_and_the_resamples_that_are_asked_for():
    parts, split = planted_parts(kinks)
    found = built_in.built_in(parts, split, n_bootstrap=150, seed=2)
    affine, r = parts.x - parts.linear_error, -parts.nonlinear_error
    moved = r[built_in.shuffled_within(split, 2)]
    for name, noise_ in (("measured", r), ("shuffled", moved)):
        known = between.vector_r2(
            affine + noise_, lambda rows, v=noise_: -v[None, rows], split, n_bootstrap=150, seed=2
        )
        assert found[name] == known[0]
    assert not torch.equal(moved, r[built_in.shuffled_within(split, 3)])
