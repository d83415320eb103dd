"""Which tokens a sample takes, and that its weights and directions are the reconstruction."""

from types import SimpleNamespace

import pytest
import torch

from dm_utils.engine.latent_sample import first_whole_contexts, latent_sample


@pytest.mark.parametrize(("asked", "given"), [(1, 3), (3, 3), (6, 3), (7, 6), (8, 6), (9, 9), (100, 9)])
def test_a_sample_ends_where_a_context_ends_and_holds_one_at_least(asked, given):
    context = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert first_whole_contexts(context, asked) == given


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_weights_times_unit_directions_are_the_reconstruction_without_its_bias(study, architecture):
    """Over more than one block of 8,192 tokens' worth of rows, and for codes in either unit."""
    ref = study.sae(width=2048, architecture=architecture)
    n, sae = study.profile.kept_per_context * 5, study.load_sae(ref)
    sae.W_dec.data *= torch.linspace(0.5, 2, len(sae.W_dec))[:, None]  # directions of unequal length
    given = SimpleNamespace(site=study.site, load_sae=lambda _: sae)
    sample = latent_sample(given, ref, n + 10)
    x = study.site().x[:n]
    with torch.no_grad():
        expected = sae(x) - sae.b_dec
    torch.testing.assert_close(sample.dictionary.norm(dim=1), torch.ones(2048))
    torch.testing.assert_close(sample.sae_out, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.sparse.mm(sample.weights, sample.dictionary), expected, rtol=1e-3, atol=1e-3)
    assert sample.weights.shape == (n, 2048) and torch.equal(sample.context, study.site().context[:n])


def test_every_block_of_tokens_has_its_own_rows(study):
    """24 contexts of 191 tokens, twice: more than one block."""
    ref = study.sae(width=512)
    site = study.site()
    twice = SimpleNamespace(x=site.x.repeat(2, 1), context=torch.cat([site.context, site.context + 24]))
    sample = latent_sample(SimpleNamespace(site=lambda *_: twice, load_sae=study.load_sae), ref, 10**6)
    assert len(sample.sae_out) == len(twice.x) > 8192
    half = len(site.x)
    torch.testing.assert_close(sample.sae_out[:half], sample.sae_out[half:], rtol=1e-4, atol=1e-4)
