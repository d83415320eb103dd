"""SAEs with a more powerful encoder (Section 6.1): gradient pursuit on the frozen decoder, measured like any SAE.

Each token is pursued with exactly as many atoms as its own encoder used. What changes is which latents are chosen and how
large they are; the decoder, the tokens and the protocol stay the same, so differences are paired token by token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils import saes
from dm_utils.breakdown import WidthFits, breakdown, fvu_draws
from dm_utils.decomposition import SCALARS
from dm_utils.pursuit import SparseCodes, pursuit_codes
from dm_utils.regression import Estimate
from dm_utils.scaling import percentiles
from dm_utils.store import file_sha256

if TYPE_CHECKING:
    from sae_lens import SAE

    from dm_utils.saes import SaeRef
    from dm_utils.store import Arrays
    from dm_utils.study import Study


def pursue(
    sae: SAE[Any], x: Float[Tensor, "token d"], l0: int | Int[Tensor, " token"] | None = None
) -> tuple[SparseCodes, Float[Tensor, "token d"]]:
    """Encode x by gradient pursuit on the SAE's decoder and reconstruct it; by default with each token's own L0.

    An SAE that normalises its input is pursued in the normalised space, and its reconstruction brought back.
    """
    x = x.to(sae.W_dec.dtype)
    steps = saes.codes(sae, x).l0 if l0 is None else l0
    codes = pursuit_codes(sae.run_time_activation_norm_fn_in(x), sae, steps)
    return codes, reconstruct(sae, x, codes)


@torch.no_grad()
def reconstruct(sae: SAE[Any], x: Float[Tensor, "token d"], codes: SparseCodes) -> Float[Tensor, "token d"]:
    """The reconstruction of pursued codes, in the space of x."""
    sae.run_time_activation_norm_fn_in(x)  # it remembers the scale that the way out undoes
    return sae.run_time_activation_norm_fn_out(codes.decode(sae.W_dec, sae.b_dec))


def pursued_result(study: Study, ref: SaeRef) -> tuple[dict[str, Any], Arrays]:
    """The decomposition of one pursued SAE, kept in the store: metrics with intervals, and per-token scalars.

    The data also holds `shared_support`: the mean share of a token's pursued latents that its encoder uses, too.
    """
    files = [file_sha256(Path(__file__).with_name(name)) for name in ("pursuit.py", Path(__file__).name)]
    key = {"encoder": study.result_key(ref), "pursuit": files}

    def compute() -> tuple[Any, Arrays]:
        sae, site = study.load_sae(ref), study.site(ref.layer, ref.component)
        kept: dict[int, SparseCodes] = {}
        shared = torch.zeros(len(site.x))
        bar = tqdm(total=len(site.x), desc=f"pursuing {ref.id}", unit="token", leave=False)

        def sae_out(rows: slice, x: Tensor) -> Tensor:
            if rows.start in kept:
                return reconstruct(sae, x, kept[rows.start])
            kept[rows.start], out = pursue(sae, x)
            shared[rows] = shared_support(kept[rows.start], saes.codes(sae, x), ref.d_sae).cpu()
            bar.update(len(x))
            return out

        result = site.decomposer.run(sae_out, name=f"pursuit on {ref.id}")
        bar.close()
        metrics = {name: [_plain(e.value), _plain(e.low), _plain(e.high)] for name, e in result.metrics.items()}
        scalars = {name: result.scalars[name].numpy() for name in SCALARS}
        return {"metrics": metrics, "shared_support": float(shared.mean())}, scalars

    return study.store.get_or_compute("pursuit", key, compute)


def shared_support(pursued: SparseCodes, encoded: saes.Codes, d_sae: int) -> Float[Tensor, " token"]:
    """Share of each token's pursued latents (weight above 0) that its encoder uses, too; 1 where it has none."""
    token = torch.repeat_interleave(torch.arange(len(encoded.offsets), device=encoded.l0.device), encoded.l0)
    row = torch.arange(len(pursued.indices), device=pursued.indices.device)[:, None]
    inside = torch.isin(row * d_sae + pursued.indices, token * d_sae + encoded.indices) & (pursued.weights > 0)
    return torch.where(pursued.l0 > 0, inside.sum(1) / pursued.l0.clamp_min(1), 1.0)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def measure(study: Study, refs: Sequence[SaeRef]) -> pd.DataFrame:
    """One row per SAE as `Study.measure` gives it, with the metrics of the pursued reconstructions instead."""
    table = study.measure(refs)
    rows = [pursued_result(study, ref)[0] for ref in tqdm(refs, desc="pursuit", unit="SAE", leave=False)]
    for name in rows[0]["metrics"] if rows else ():
        for i, tail in enumerate(("", "_low", "_high")):
            table[f"{name}{tail}"] = [row["metrics"][name][i] for row in rows]
    return table.assign(shared_support=[row["shared_support"] for row in rows])


@dataclass(frozen=True)
class PairedNorms:
    """Squared norms [sae, token] of the errors of several SAEs at one site, by their encoder and by pursuit."""

    widths: list[int]
    encoder: dict[str, Float[Tensor, "sae token"]]
    pursuit: dict[str, Float[Tensor, "sae token"]]


def paired_norms(study: Study, refs: Sequence[SaeRef]) -> PairedNorms:
    """Per-token squared norms of the error and of its parts, before and after."""
    names = ("error_norm2", "linear_norm2", "nonlinear_norm2")

    def stack(scalars: Sequence[Arrays]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.stack([s[name] for s in scalars])) for name in names}

    before = stack([study.token_scalars(ref) for ref in refs])
    return PairedNorms([ref.d_sae for ref in refs], before, stack([pursued_result(study, ref)[1] for ref in refs]))


def changes(study: Study, refs: Sequence[SaeRef]) -> pd.DataFrame:
    """What pursuit changes, paired over tokens: one row per SAE, each metric with its 95 % interval.

    `fvu_drop` and `fvu_nonlinear_drop` are absolute (the second is the encoder error of Fig. 1); `*_drop_relative` are
    shares of the encoder's value; `linear_drop_share` is the share of the drop of FVU that the linear part accounts for.
    """
    norms, design = paired_norms(study, refs), study.site(refs[0].layer, refs[0].component).design
    p, found = study.profile, {}
    for name in ("error_norm2", "nonlinear_norm2"):
        before = fvu_draws(design, norms.encoder[name], p.n_bootstrap, p.seed)
        after = fvu_draws(design, norms.pursuit[name], p.n_bootstrap, p.seed)
        found[name] = [(b - a, b) for a, b in zip(after, before, strict=True)]
    pairs = {"fvu": found["error_norm2"], "fvu_nonlinear": found["nonlinear_norm2"]}
    columns: dict[str, list[Estimate]] = {}
    for name, ((drop, base), (drops, bases)) in pairs.items():
        columns[f"{name}_drop"] = [percentiles(v, d) for v, d in zip(drop, drops.T, strict=True)]
        columns[f"{name}_drop_relative"] = [
            percentiles(v, d) for v, d in zip(drop / base, (drops / bases).T, strict=True)
        ]
    (total, _), (totals, _) = pairs["fvu"]
    (part, _), (parts, _) = pairs["fvu_nonlinear"]
    linear = zip(1 - part / total, (1 - parts / totals).T, strict=True)
    columns["linear_drop_share"] = [percentiles(v, d) for v, d in linear]
    ends = {"": "value", "_low": "low", "_high": "high"}
    wide = {f"{n}{tail}": [getattr(e, end) for e in v] for n, v in columns.items() for tail, end in ends.items()}
    return study.measure(refs).assign(**wide)


def breakdown_with_encoder(before: WidthFits, after: WidthFits, widths: Sequence[float]) -> pd.DataFrame:
    """The curves of Fig. 1 with its fourth part: below FVU_nonlinear, what pursuit takes off it is encoder error.

    As `breakdown.breakdown` (with the paper's horizontal lines), and a part `encoder` between the levels of FVU_nonlinear
    after and before pursuit. Where pursuit does not lower the level, the part has no height.
    """
    curves = breakdown(before.fvu, before.fvu_nonlinear_level, widths)
    level, draws = after.fvu_nonlinear_level.level.value, after.fvu_nonlinear_level.draws
    nonlinear, rest = curves[curves["part"] == "nonlinear"], curves[curves["part"] != "nonlinear"]
    low, high = np.quantile(draws, [0.025, 0.975])
    below = np.minimum(level, nonlinear["top"])
    encoder = nonlinear.assign(part="encoder", bottom=below)
    nonlinear = nonlinear.assign(
        top=below, top_low=np.minimum(low, nonlinear["top_low"]), top_high=np.minimum(high, nonlinear["top_high"])
    )
    return pd.concat([rest, encoder, nonlinear], ignore_index=True)
