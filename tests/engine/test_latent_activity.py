"""Where latents are active, by sign; and token rules, which say it where a token decides and not where chance does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from dm_utils.engine import latent_activity
from dm_utils.engine.latent_activity import activity, rule_scores
from dm_utils.engine.text_windows import WindowPlan

PLAN = WindowPlan(window=4, n_deciles=2, per_decile=3, n_not=6)
WORDS = [f" word{i}" for i in range(8)]


@pytest.fixture
def site():
    """A text of 60 contexts of 8 tokens, drawn from 8 words."""
    tokens = torch.randint(8, (480,), generator=torch.Generator().manual_seed(0))
    context, position = torch.arange(480) // 8, torch.arange(480) % 8
    return SimpleNamespace(token_id=tokens, context=context, position=position)


def identity(d: int):
    """A TopK SAE with one latent per dimension, one of them active."""
    sae = TopKSAE(TopKSAEConfig(d_in=d, d_sae=d, k=1, dtype="float32", device="cpu", apply_b_dec_to_input=False))
    sae.W_enc.data = sae.W_dec.data = torch.eye(d)
    return sae.eval().requires_grad_(False)


def blocks(x: torch.Tensor):
    """Two blocks of it."""
    return ((slice(start, start + 240), x[start : start + 240]) for start in (0, 240))


def test_latents_are_active_where_their_tokens_are(site) -> None:
    found = activity(identity(8), blocks(torch.eye(8)[site.token_id]), site, PLAN)
    window, position, value = found.entries(3)
    assert (found.tokens[window, position] == 3).all() and len(window) == int((site.token_id == 3).sum())
    assert (value == 1).all()


def test_a_signed_latent_counts_as_two(site, monkeypatch) -> None:
    rows = torch.eye(8)[site.token_id] * torch.where(site.position % 2 == 0, 1.0, -1.0)[:, None]

    def signed(_, x: torch.Tensor) -> SimpleNamespace:
        indices = x.abs().argmax(1)
        return SimpleNamespace(
            l0=torch.ones(len(x), dtype=torch.int64), indices=indices, values=x.gather(1, indices[:, None])[:, 0]
        )

    monkeypatch.setattr(latent_activity, "encode", signed)
    found = activity(identity(8), blocks(rows), site, PLAN)
    assert set(found.alive) == set(range(16))
    assert (found.entries(3)[1] % 2 == 0).all() and (found.entries(11)[1] % 2 == 1).all()


def test_rules_say_what_a_token_decides_and_not_what_chance_does(site) -> None:
    told = rule_scores(activity(identity(8), blocks(torch.eye(8)[site.token_id]), site, PLAN), WORDS, 8)
    assert told.own.value == 1.0 and told.tested == 1.0
    assert told.dealt.high < 0.7
    shuffled = torch.from_numpy(np.random.default_rng(1).permutation(site.token_id.numpy()))
    chance = rule_scores(activity(identity(8), blocks(torch.eye(8)[shuffled]), site, PLAN), WORDS, 8)
    assert chance.own.low < 0.65
    assert set(chance.columns()) >= {"rules", "rules_low", "rules_high", "rules_dealt", "rules_tested"}
