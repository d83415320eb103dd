"""What a part wins back is a share of what Sae(x) costs; its share of the variance is what the other part leaves out."""

from __future__ import annotations

import pytest
import torch

from dm_utils.engine import recovery

CONTEXT = torch.tensor([7, 7, 3, 3, 3])


def sums() -> dict[str, torch.Tensor]:
    """Two contexts of two and three tokens; every column its own."""
    names = ("ce_original", "ce_sae", "ce_sae_linear", "ce_sae_nonlinear", "kl_original", "kl_sae", "kl_sae_linear")
    columns = {
        name: torch.full((5,), value) for name, value in zip(names, (2.0, 3.0, 2.75, 2.5, 0.0, 0.5, 0.3), strict=True)
    }
    columns["error_norm2"] = torch.tensor([4.0, 4, 4, 4, 4])
    columns["linear_norm2"], columns["nonlinear_norm2"] = torch.full((5,), 1.0), torch.full((5,), 3.0)
    return recovery.context_sums(CONTEXT, columns)


def test_every_token_counts_once_in_its_context() -> None:
    found = recovery.context_sums(CONTEXT, {"y": torch.tensor([1.0, 2, 4, 8, 16])})
    assert sorted(found["y"].flatten().tolist()) == [3.0, 28.0]
    assert sorted(found["n"].flatten().tolist()) == [2.0, 3.0]


def test_what_is_won_back_is_a_share_of_the_cost() -> None:
    found = sums()
    assert recovery.recovered(found, "sae_linear").tolist() == pytest.approx([0.25, 0.25])
    assert recovery.recovered(found, "sae_nonlinear").tolist() == pytest.approx([0.5, 0.5])
    assert recovery.recovered(found, "sae_linear", "kl").tolist() == pytest.approx([0.4, 0.4], rel=1e-6)


def test_a_part_that_is_added_back_leaves_the_other() -> None:
    found = sums()
    assert recovery.share_of_variance(found, "linear").tolist() == pytest.approx([0.25, 0.25])
    assert recovery.share_of_variance(found, "nonlinear").tolist() == pytest.approx([0.75, 0.75])
    assert recovery.excess(found, "nonlinear").tolist() == pytest.approx([-0.25, -0.25])
    assert recovery.excess(found, "linear", "kl").tolist() == pytest.approx([0.15, 0.15], rel=1e-5)
