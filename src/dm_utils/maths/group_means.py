"""Means by group (a token's identity, a bin) as predictions: the simplest competitor of a linear probe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dm_utils.maths.regression import BLOCK
from dm_utils.maths.resampling import Split


@dataclass(frozen=True)
class GroupMeans:
    """Fitting means of some columns by group, to be looked up for any token.

    `table` float64 [group, column]; `index` int64 [token], the row of each token; `seen` bool [group]. The row of a
    group without fitting tokens is the mean of all fitting tokens.
    """

    table: Float[Tensor, "group column"]
    index: Int[Tensor, " token"]
    seen: Bool[Tensor, " group"]

    @property
    def values(self) -> Float[Tensor, "token column"]:
        """The mean that each token gets."""
        return self.table[self.index]

    @property
    def unseen(self) -> Bool[Tensor, " token"]:
        """Tokens whose group no fitting token has."""
        return ~self.seen[self.index]


def group_means(columns: Float[Tensor, "token column"], group: Int[Tensor, " token"], split: Split) -> GroupMeans:
    """Predict columns by the mean over the fitting tokens of the same group (token identity, or a bin)."""
    index = torch.unique(group.cpu(), return_inverse=True)[1]
    count = torch.bincount(index[split.fit], minlength=int(index.max()) + 1)
    total = torch.zeros(len(count), columns.shape[1], dtype=torch.float64)
    for start in range(0, len(columns), BLOCK):
        rows = slice(start, start + BLOCK)
        fit = split.fit[rows]
        total.index_add_(0, index[rows][fit], columns[rows][fit].double())
    table = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], total.sum(0) / count.sum())
    return GroupMeans(table, index, count > 0)
