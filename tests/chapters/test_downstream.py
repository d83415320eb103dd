"""Specification of Section 5.3: the variants, the statistics, and the losses of the lab's SAEs."""

import pandas as pd
import pytest
import torch

from dm_utils.chapters.s05_3_downstream import experiment as downstream
from dm_utils.chapters.s05_3_downstream import mixing, recovery
from dm_utils.engine.token_loss import token_losses

N_CONTEXTS = 3


@pytest.fixture(scope="module")
def refs(study):
    return [study.sae(width=512), study.sae(width=1024)]


@pytest.fixture(scope="module")
def losses(study, refs):
    return downstream.spliced_losses(study, refs, N_CONTEXTS)


def vectors(seed=0, n_token=500, d=16):
    rng = torch.Generator().manual_seed(seed)
    x, sae_out, linear = (torch.randn(n_token, d, generator=rng) for _ in range(3))
    return x, sae_out, linear, rng


def test_variants_add_up():
    x, sae_out, linear, rng = vectors()
    found = downstream.error_variants(x, sae_out, linear, rng)
    torch.testing.assert_close(found["sae_both"], x)
    torch.testing.assert_close(found["sae_linear"] - found["sae"], linear)
    torch.testing.assert_close(found["sae_nonlinear"] + linear, x)


@pytest.mark.parametrize("part", downstream.PARTS)
def test_random_variants_are_as_far_from_their_start_as_the_part_is_long(part):
    x, sae_out, linear, rng = vectors()
    found = downstream.error_variants(x, sae_out, linear, rng)
    length = (x - found[downstream.WITHOUT[part]]).norm(dim=1)
    for kind in ("random", "difference"):
        torch.testing.assert_close((found[f"{kind}_{part}"] - x).norm(dim=1), length)
    if part != "error":
        torch.testing.assert_close((found[f"sae_random_{part}"] - sae_out).norm(dim=1), length)


def test_random_directions_are_unit_isotropic_and_differences_of_rows():
    x, *_, rng = vectors(n_token=4000, d=8)
    isotropic, difference = downstream.random_directions(x, rng)
    for found in (isotropic, difference):
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(x)))
    torch.testing.assert_close(isotropic.T @ isotropic / len(x), torch.eye(8) / 8, atol=0.02, rtol=0)
    line = torch.arange(20.0)[:, None] * torch.tensor([[3.0, 4.0]]) / 5
    _, along = downstream.random_directions(line, rng)
    torch.testing.assert_close(along.abs(), torch.tensor([[0.6, 0.8]]).expand(20, 2))


def test_equal_rows_have_no_difference_so_the_isotropic_direction_stands_in():
    isotropic, difference = downstream.random_directions(torch.ones(5, 3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(difference, isotropic)


def test_statistics_of_planted_losses():
    context = torch.arange(40) // 10
    planted = {"ce_original": 1.0, "ce_sae": 3.0, "ce_sae_linear": 2.5, "ce_sae_nonlinear": 1.5, "ce_mean": 9.0}
    planted |= {"error_norm2": 25.0, "linear_norm2": 9.0, "nonlinear_norm2": 16.0}
    planted |= {"error_norm": 5.0, "linear_norm": 3.0, "sae_norm": 10.0, "kl_sae": 2.0, "kl_random_error": 0.5}
    sums = recovery.context_sums(context, {name: torch.full((40,), value) for name, value in planted.items()})
    expected = {"ce_increase": 2.0, "ce_recovered_linear": 0.25, "ce_recovered_nonlinear": 0.75}
    expected |= {"share_norm_linear": 0.6, "share_norm_of_sae_linear": 0.3}
    expected |= {"share_variance_linear": 9 / 25, "share_variance_nonlinear": 16 / 25}
    expected |= {"kl_over_random_error": 4.0, "loss_recovered_over_mean": 0.75}
    functions = recovery.statistics()
    for name, value in expected.items():
        torch.testing.assert_close(functions[name](sums), torch.full((4,), value, dtype=torch.float64))


def test_context_sums_add_by_context():
    sums = recovery.context_sums(torch.tensor([7, 3, 7]), {"loss": torch.tensor([1.0, 10.0, 2.0])})
    assert sums["n"][:, 0].tolist() == [1, 2]
    assert sums["loss"][:, 0].tolist() == [10, 3]


def test_the_original_is_the_models_own_loss_at_the_held_out_tokens(study, losses):
    shared = losses[downstream.SHARED]
    fit = study.site().split.fit.view(24, -1)[:N_CONTEXTS].flatten()
    assert shared["row"].tolist() == (~fit).nonzero()[:, 0].tolist()
    own = torch.from_numpy(token_losses(study)["next"][shared["row"]])
    torch.testing.assert_close(torch.from_numpy(shared["cross_entropy"][0]), own, rtol=1e-4, atol=1e-4)
    assert shared["hand_over"] < 1e-5


def test_both_parts_added_back_are_the_original(losses, refs):
    original = torch.from_numpy(losses[downstream.SHARED]["cross_entropy"][0])
    for ref in refs:
        both = losses[ref.id]["names"].index("sae_both")
        torch.testing.assert_close(torch.from_numpy(losses[ref.id]["cross_entropy"][both]), original, rtol=0, atol=1e-3)
        assert abs(float(original.mean()) - losses[ref.id]["cross_entropy"][both].mean()) < 1e-5
        assert losses[ref.id]["kl"][both].max() < 1e-4


def test_the_table_orders_the_variants_as_they_must_be(study, losses, refs):
    table = recovery.downstream_table(study, refs, losses)
    assert table["sae_id"].tolist() == [ref.id for ref in refs]
    assert (table["ce_increase_low"] > 0).all()
    assert table["ce_recovered_both"].to_numpy() == pytest.approx(1, abs=1e-4)
    assert (table["kl_recovered_random_linear"] < 0).all()
    assert (table["share_variance_linear"] + table["share_variance_nonlinear"]).between(0.9, 1.1).all()
    reference = recovery.reference_losses(losses, 100)
    assert reference["original"].value + 1 < min(reference["mean"].value, reference["zero"].value)


def test_only_what_is_missing_is_spliced_in(study, refs, losses, monkeypatch):
    asked = []
    real = downstream.splice
    monkeypatch.setattr(downstream, "splice", lambda *args, **options: asked.append(args[3]) or real(*args, **options))
    again = downstream.spliced_losses(study, refs, N_CONTEXTS)
    assert not asked
    assert again.keys() == losses.keys()
    more = downstream.spliced_losses(study, [*refs, study.sae(width=2048)], N_CONTEXTS)
    x = study.site().x[: study.profile.kept_per_context]
    assert {name.split("/")[0] for name in asked[0](x, 0)} == {"mean", "zero", study.sae(width=2048).id}
    assert (more[refs[0].id]["cross_entropy"] == losses[refs[0].id]["cross_entropy"]).all()


def test_the_corners_of_the_grid_of_shares_are_the_variants_of_the_table(study, refs, losses):
    """No share of either part is Sae(x), all of one is that part added back, all of both is the original."""
    grid = mixing.mixing_grid(study, refs[0], N_CONTEXTS, steps=3).set_index(["linear", "nonlinear"])["value"]
    assert sorted(grid.index) == [(a, b) for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)]
    spliced, original = losses[refs[0].id], losses[downstream.SHARED]["cross_entropy"][0]
    loss = {
        name: float((row - original).mean())
        for name, row in zip(spliced["names"], spliced["cross_entropy"], strict=True)
    }
    assert abs(loss["sae_linear"] - loss["sae_nonlinear"]) > 0.05
    for shares, name in {(0, 0): "sae", (1, 0): "sae_linear", (0, 1): "sae_nonlinear", (1, 1): "sae_both"}.items():
        assert grid[shares] == pytest.approx(loss[name], abs=1e-3)


def test_the_loss_of_an_evenly_shrinking_error_falls_by_its_own_power():
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    rows = [
        {"linear": a, "nonlinear": b, "value": 0.3 * (1 - a) ** 1.7 if a == b else 9.0} for a in shares for b in shares
    ]
    assert mixing.power(pd.DataFrame(rows)) == pytest.approx(1.7)


def test_a_wrong_request_is_named(study, refs):
    with pytest.raises(ValueError, match="the SAEs sit at 2 sites"):
        downstream.spliced_losses(study, [refs[0], study.sae(layer=2)], 2)
    with pytest.raises(ValueError, match="n_contexts = 25: it must be a whole number from 2 to 24"):
        downstream.spliced_losses(study, refs, 25)


def test_every_statistic_of_the_chapter_by_hand():
    """Every column its own number, so that no statistic can read another's."""
    losses = ["original", "sae", "mean", "zero"]
    losses += [f"sae_{kind}" for kind in ("linear", "nonlinear", "both", "random_linear", "random_nonlinear")]
    losses += [f"{kind}_{part}" for kind in ("random", "difference") for part in downstream.PARTS]
    names = [f"{loss}_{name}" for loss in ("ce", "kl") for name in losses]
    names += [f"{name}_{size}" for name in ("error", "linear", "nonlinear", "sae") for size in ("norm", "norm2")]
    v = {name: 1 + 0.37 * i + 0.05 * i * i for i, name in enumerate(names)}
    found = recovery.context_sums(torch.arange(30) // 10, {name: torch.full((30,), value) for name, value in v.items()})

    def won(loss, variant):
        return (v[f"{loss}_sae"] - v[f"{loss}_sae_{variant}"]) / (v[f"{loss}_sae"] - v[f"{loss}_original"])

    expected = {"ce_increase": v["ce_sae"] - v["ce_original"]}
    for base in ("mean", "zero"):
        cost = v[f"ce_{base}"] - v["ce_original"]
        expected[f"loss_recovered_over_{base}"] = (v[f"ce_{base}"] - v["ce_sae"]) / cost
    share = {
        part: 1 - v[f"{other}_norm2"] / v["error_norm2"]
        for part, other in (("linear", "nonlinear"), ("nonlinear", "linear"))
    }
    for part in share:
        expected[f"share_norm_{part}"] = v[f"{part}_norm"] / v["error_norm"]
        expected[f"share_norm_of_sae_{part}"] = v[f"{part}_norm"] / v["sae_norm"]
        expected[f"share_variance_{part}"] = share[part]
    for loss in ("ce", "kl"):
        for variant in ("linear", "nonlinear", "both", "random_linear", "random_nonlinear"):
            expected[f"{loss}_recovered_{variant}"] = won(loss, variant)
        excess = {part: won(loss, part) - share[part] for part in share}
        expected |= {f"{loss}_excess_{part}": value for part, value in excess.items()}
        expected[f"{loss}_excess_difference"] = excess["linear"] - excess["nonlinear"]
    for part, variant in (("error", "sae"), ("linear", "sae_nonlinear"), ("nonlinear", "sae_linear")):
        expected[f"kl_without_{part}"] = v[f"kl_{variant}"]
        for kind in ("random", "difference"):
            expected[f"kl_{kind}_{part}"] = v[f"kl_{kind}_{part}"]
            expected[f"kl_over_{kind}_{part}"] = v[f"kl_{variant}"] / v[f"kl_{kind}_{part}"]
    values = {name: float(statistic(found)[0]) for name, statistic in recovery.statistics().items()}
    assert values == pytest.approx(expected, rel=1e-4)


def test_reference_losses_are_means_over_tokens():
    entry = {"names": ["original", "mean"], "context": torch.tensor([0, 0, 3]).numpy()}
    entry["cross_entropy"] = torch.tensor([[1.0, 2, 6], [4, 4, 4]]).numpy()
    found = recovery.reference_losses({downstream.SHARED: entry}, 50)
    assert (found["original"].value, found["mean"].value) == (3, 4)


def test_every_loss_and_length_of_an_sae_has_its_column(study, refs, losses):
    columns, entry, row = recovery.sae_columns(study, refs[0], losses), losses[refs[0].id], losses[refs[0].id]["row"]
    scalars = study.token_scalars(refs[0])
    for part in ("error", "linear", "nonlinear", "sae"):
        assert (columns[f"{part}_norm2"].numpy() == scalars[f"{part}_norm2"][row]).all()
        torch.testing.assert_close(columns[f"{part}_norm"].square(), columns[f"{part}_norm2"])
    for i, name in enumerate(entry["names"]):
        assert (columns[f"ce_{name}"].numpy() == entry["cross_entropy"][i]).all()
        assert (columns[f"kl_{name}"].numpy() == entry["kl"][i]).all()
    assert {"ce_original", "kl_zero", "ce_mean"} <= set(columns)


def test_an_interval_of_the_grid_resamples_contexts(study, refs, losses):
    from dm_utils.maths.resampling import Bootstrap

    row = mixing.mixing_grid(study, refs[0], N_CONTEXTS, steps=3).set_index(["linear", "nonlinear"]).loc[(0.0, 0.0)]
    entry, original = losses[refs[0].id], losses[downstream.SHARED]["cross_entropy"][0]
    extra = entry["cross_entropy"][entry["names"].index("sae")] - original
    sums = recovery.context_sums(torch.from_numpy(entry["context"]), {"extra": torch.from_numpy(extra)})
    p = study.profile
    known = Bootstrap(sums, p.n_bootstrap, p.seed).estimate(lambda s: (s["extra"] / s["n"])[:, 0])
    assert row[["value", "low", "high"]].tolist() == pytest.approx([known.value, known.low, known.high], abs=1e-3)
