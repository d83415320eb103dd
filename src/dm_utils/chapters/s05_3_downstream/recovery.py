"""What spliced losses say (Section 5.3, Fig. 8): what each part of the error recovers, its share of the size, and the damage it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.chapters.s05_3_downstream.experiment import SHARED, WITHOUT
from dm_utils.engine.recovery import context_sums, excess, recovered, share_of_variance
from dm_utils.maths.resampling import Bootstrap, Estimate, Sums

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

Statistic = Callable[[Sums], Float[Tensor, " draw"]]


def ratio(sums: Sums, top: str, bottom: str) -> Float[Tensor, " draw"]:
    """One sum over another."""
    return (sums[top] / sums[bottom])[:, 0]


def _extra(sums: Sums, loss: str) -> Float[Tensor, " draw"]:
    """LinearError's excess minus NonlinearError's: positive where the first is the one that does more than its size."""
    return excess(sums, "linear", loss) - excess(sums, "nonlinear", loss)


def statistics() -> dict[str, Statistic]:
    """Every statistic of the chapter, by name: a function of context sums."""
    found: dict[str, Statistic] = {"ce_increase": lambda s: ((s["ce_sae"] - s["ce_original"]) / s["n"])[:, 0]}
    for loss in ("ce", "kl"):
        for variant in ("linear", "nonlinear", "both", "random_linear", "random_nonlinear"):
            found[f"{loss}_recovered_{variant}"] = partial(recovered, variant=f"sae_{variant}", loss=loss)
    for part in ("linear", "nonlinear"):
        found[f"share_norm_{part}"] = partial(ratio, top=f"{part}_norm", bottom="error_norm")
        found[f"share_norm_of_sae_{part}"] = partial(ratio, top=f"{part}_norm", bottom="sae_norm")
        found[f"share_variance_{part}"] = partial(share_of_variance, part=part)
        for loss in ("ce", "kl"):
            found[f"{loss}_excess_{part}"] = partial(excess, part=part, loss=loss)
    for loss in ("ce", "kl"):
        found[f"{loss}_excess_difference"] = partial(_extra, loss=loss)
    for part, variant in WITHOUT.items():
        found[f"kl_without_{part}"] = partial(ratio, top=f"kl_{variant}", bottom="n")
        for kind in ("random", "difference"):
            found[f"kl_{kind}_{part}"] = partial(ratio, top=f"kl_{kind}_{part}", bottom="n")
            found[f"kl_over_{kind}_{part}"] = partial(ratio, top=f"kl_{variant}", bottom=f"kl_{kind}_{part}")
    for baseline in ("mean", "zero"):
        found[f"loss_recovered_over_{baseline}"] = partial(_loss_recovered, baseline=baseline)
    return found


def _loss_recovered(sums: Sums, baseline: str) -> Float[Tensor, " draw"]:
    """Share of the loss of an ablation that Sae(x) wins back, the usual score of an SAE."""
    cost = sums[f"ce_{baseline}"] - sums["ce_original"]
    return ((sums[f"ce_{baseline}"] - sums["ce_sae"]) / cost)[:, 0]


def sae_columns(study: Study, ref: SaeRef, losses: dict[str, dict[str, Any]]) -> dict[str, Float[Tensor, " token"]]:
    """Per-token columns of one SAE: both losses under every variant, and the lengths of the error's parts."""
    columns = {}
    for entry in (losses[SHARED], losses[ref.id]):
        for i, name in enumerate(entry["names"]):
            columns[f"ce_{name}"] = torch.from_numpy(entry["cross_entropy"][i])
            columns[f"kl_{name}"] = torch.from_numpy(entry["kl"][i])
    scalars = study.token_scalars(ref)
    for name in ("error", "linear", "nonlinear", "sae"):
        columns[f"{name}_norm2"] = torch.from_numpy(scalars[f"{name}_norm2"][losses[ref.id]["row"]])
        columns[f"{name}_norm"] = columns[f"{name}_norm2"].sqrt()
    return columns


def downstream_table(study: Study, refs: Sequence[SaeRef], losses: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per SAE as `Study.measure` gives it, with every statistic of the chapter and its 95 % interval.

    `ce_recovered_*` and `kl_recovered_*` are the shares of the increase that adding a part back wins back; `share_norm_*`
    is E‖part‖ / E‖SaeError‖ and `share_norm_of_sae_*` E‖part‖ / E‖Sae(x)‖ (as the paper's text words it);
    `share_variance_*` is the share of the unexplained variance that the part removes, and `ce_excess_*`, `kl_excess_*` what is
    recovered beyond it (`_difference`: linear minus nonlinear); `kl_over_random_*` is the KL of x
    without a part over that of x moved as far in a random direction.
    """
    p, functions = study.profile, statistics()
    rows = []
    for ref in refs:
        sums = context_sums(torch.from_numpy(losses[ref.id]["context"]), sae_columns(study, ref, losses))
        estimate = Bootstrap(sums, p.n_bootstrap, p.seed).estimate
        note = "the SAE costs no loss"
        found = [estimate(statistic, note).columns(name) for name, statistic in functions.items()]
        rows.append({column: value for columns in found for column, value in columns.items()})
    return pd.concat([study.measure(refs), pd.DataFrame(rows)], axis=1)


def reference_losses(losses: dict[str, dict[str, Any]], n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """Mean cross-entropy in nats per token of the original model, and with the mean and zero spliced in."""
    entry = losses[SHARED]
    columns = {name: torch.from_numpy(entry["cross_entropy"][i]) for i, name in enumerate(entry["names"])}
    estimate = Bootstrap(context_sums(torch.from_numpy(entry["context"]), columns), n_bootstrap, seed).estimate
    return {name: estimate(partial(ratio, top=name, bottom="n")) for name in columns}
