"""The model's loss at each kept token: of the next one, and what the token itself cost before."""

from __future__ import annotations

import pytest
import torch

from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.engine.token_loss import cross_entropy, token_losses


def test_both_losses_are_those_of_the_logits(study) -> None:
    p, found = study.profile, token_losses(study)
    with torch.inference_mode():
        logits = study.model(study.contexts, return_type="logits")
    loss = -logits.log_softmax(-1)[:, :-1].gather(-1, study.contexts[:, 1:, None])[..., 0]
    known = {"next": loss[:, p.skip : p.ctx_len - 1], "own": loss[:, p.skip - 1 : p.ctx_len - 2]}
    for name, values in known.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), values.flatten(), rtol=1e-3, atol=1e-3)


def test_what_a_token_costs_is_the_loss_at_the_token_before(study) -> None:
    found, kept = token_losses(study), study.profile.kept_per_context
    own, following = (torch.from_numpy(found[name]).view(-1, kept) for name in ("own", "next"))
    assert torch.equal(own[:, 1:], following[:, :-1])


def test_losses_do_not_depend_on_the_batch(study, tmp_path) -> None:
    other = Study(study.profile.with_overrides(batch=5), Store(tmp_path))
    other.__dict__ |= {"contexts": study.contexts, "model": study.model}
    for name, values in token_losses(other).items():
        torch.testing.assert_close(
            torch.from_numpy(values), torch.from_numpy(token_losses(study)[name]), rtol=1e-3, atol=1e-3
        )


def test_the_first_token_has_no_loss_of_its_own(study, tmp_path) -> None:
    for skip in (0, 1):
        other = Study(study.profile.with_overrides(skip=skip), Store(tmp_path))
        other.__dict__ |= {"contexts": study.contexts, "model": study.model}
        if skip:
            assert len(token_losses(other)["own"]) == 24 * 254
        else:
            with pytest.raises(ValueError, match="skip = 0: the loss of a context's first token is undefined"):
                token_losses(other)


def test_a_loss_that_is_no_number_is_named_by_its_contexts(study, tmp_path, monkeypatch) -> None:
    other = Study(study.profile.with_overrides(batch=16), Store(tmp_path))
    broken = torch.zeros(24, 256, 4)
    broken[20, 7] = torch.nan
    tokens = torch.zeros(24, 256, dtype=torch.long)
    starts = iter((0, 16))

    def model(some, return_type):
        start = next(starts)
        return broken[start : start + len(some)]

    other.__dict__ |= {"contexts": tokens, "model": model}
    with pytest.raises(ValueError, match="model loss, contexts 16 to 23: 1 of"):
        token_losses(other)


def test_each_context_is_scored_by_itself() -> None:
    logits, tokens = torch.zeros(2, 3, 4), torch.tensor([[0, 1, 2], [3, 3, 3]])
    logits[1, :, 3] = 50.0
    found = cross_entropy(logits, tokens)
    torch.testing.assert_close(found[0], torch.full((2,), torch.tensor(4.0).log().item()))
    torch.testing.assert_close(found[1], torch.zeros(2))
