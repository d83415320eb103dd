"""Which tokens a sample takes."""

import pytest
import torch

from dm_utils.engine.latent_sample import first_whole_contexts


@pytest.mark.parametrize(("asked", "given"), [(1, 3), (3, 3), (6, 3), (7, 6), (8, 6), (9, 9), (100, 9)])
def test_a_sample_ends_where_a_context_ends_and_holds_one_at_least(asked, given):
    context = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert first_whole_contexts(context, asked) == given
