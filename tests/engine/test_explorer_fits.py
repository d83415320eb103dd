"""What the explorer shows beside a token is what least squares, means and maxima give by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from dm_utils.engine import explorer_fits as fits
from dm_utils.maths.resampling import Bootstrap, HeldOutSums


@pytest.fixture(scope="module")
def ref(study):
    return study.sae(width=512)


@pytest.fixture(scope="module")
def found(study, ref):
    return fits.fitted(study, ref)


def test_the_probe_is_least_squares_of_the_error_norm(study, ref, found) -> None:
    site, error = study.site(), study.token_scalars(ref)["error_norm2"]
    fit = site.split.fit.numpy()
    known = LinearRegression().fit(site.x.double().numpy()[fit], error[fit])
    guesses = site.x.numpy() @ found["probe"] + found["probe_intercept"]
    np.testing.assert_allclose(guesses, known.predict(site.x.double().numpy()), rtol=1e-3, atol=1e-3 * error.std())
    np.testing.assert_allclose(found["mean"], site.x[site.split.fit].double().mean(0), rtol=1e-4, atol=1e-5)
    linear = study.error_map(ref)
    assert (found["coef"] == linear.coef.numpy()).all() and (found["intercept"] == linear.intercept.numpy()).all()


def test_a_token_is_looked_up_among_the_fitting_tokens(study, ref, found) -> None:
    site, error = study.site(), study.token_scalars(ref)["error_norm2"].astype(float)
    fit, ids = site.split.fit.numpy(), site.token_id.numpy()
    assert found["lookup"].shape == (len(study.tokenizer),)
    frequent = np.bincount(ids[fit]).argmax()
    assert found["lookup"][frequent] == pytest.approx(error[fit & (ids == frequent)].mean(), rel=1e-5)
    absent = next(i for i in range(len(study.tokenizer)) if i not in set(ids))
    assert found["lookup"][absent] == pytest.approx(error[fit].mean(), rel=1e-5)


def test_the_probe_wins_where_it_is_nearer_than_the_tokens_mean(study, ref, found) -> None:
    site, p = study.site(), study.profile
    error = study.token_scalars(ref)["error_norm2"]
    probe = site.x.numpy() @ found["probe"] + found["probe_intercept"]
    nearer = np.abs(probe - error) < np.abs(found["lookup"][site.token_id.numpy()] - error)
    sums = HeldOutSums(site.split)
    sums.add(slice(0, len(nearer)), win=torch.from_numpy(nearer).double())
    known = Bootstrap(sums.totals, p.n_bootstrap, p.seed).estimate(lambda s: (s["win"] / s["n"])[:, 0])
    assert fits.probe_wins(study, ref) == known
    assert known.value == pytest.approx(nearer[~site.split.fit.numpy()].mean()) and 0 < known.value < 1


def test_a_latent_is_shown_in_the_contexts_where_it_writes_most(study, ref) -> None:
    site, sae, kept = study.site(), study.load_sae(ref), study.profile.kept_per_context
    hidden = sae.encode(site.x)
    assert sae.cfg.rescale_acts_by_decoder_norm, "so a value is the length of what is written"
    strongest = fits.strongest(study, ref)
    assert {name: array.shape for name, array in strongest.items()} == dict.fromkeys(
        ("context", "position", "value"), (512, fits.CONTEXTS)
    )
    best, at = hidden.view(24, kept, 512).max(1)
    for latent in range(0, 512, 7):
        value, context = best[:, latent].sort(descending=True)
        n = min(fits.CONTEXTS, int((value > 0).sum()))
        np.testing.assert_allclose(strongest["value"][latent, :n], value[:n], rtol=1e-4)
        assert not strongest["value"][latent, n:].any()
        if n and value[:n].unique().numel() == n:
            assert strongest["context"][latent, :n].tolist() == context[:n].tolist()
            places = [64 + int(at[c, latent]) for c in context[:n]]
            assert strongest["position"][latent, :n].tolist() == places


def test_a_latent_writes_its_value_times_the_length_of_its_direction() -> None:
    weights = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    latents, values = torch.tensor([0, 1, 0]), torch.tensor([1.0, 2.0, 3.0])
    for scaled, known in ((True, [1, 2, 3]), (False, [5, 4, 15])):
        sae = SimpleNamespace(cfg=SimpleNamespace(rescale_acts_by_decoder_norm=scaled), W_dec=weights)
        assert fits.lengths(sae, latents, values).tolist() == known
    assert fits.lengths(SimpleNamespace(cfg=SimpleNamespace(), W_dec=weights), latents, values).tolist() == [5, 4, 15]


def test_the_pool_is_of_different_kept_tokens(study, monkeypatch) -> None:
    monkeypatch.setattr(fits, "POOL", 100)
    pool, site = fits.pool(study, 4), study.site()
    assert {name: (array.shape, array.dtype.name) for name, array in pool.items()} == {
        "x": ((100, 128), "float16"),
        "context": ((100,), "uint16"),
        "position": ((100,), "uint16"),
    }
    rows = pool["context"].astype(int) * study.profile.kept_per_context + pool["position"] - 64
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(pool["x"], site.x[rows].half().numpy())
    assert rows[-1] > 100
