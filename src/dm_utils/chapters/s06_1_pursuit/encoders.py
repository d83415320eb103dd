"""Encoders for a frozen decoder: gradient pursuit, and the SAE's own latents with their best weights (Section 6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.maths.codes import Codes
from dm_utils.maths.decomposition import SCALARS
from dm_utils.maths.encoding import encode
from dm_utils.maths.pursuit import SparseCodes, pursuit_codes, refit_weights

if TYPE_CHECKING:
    from sae_lens import SAE

    from dm_utils.engine.store import Arrays
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

ENCODERS = {"pursuit": "gradient pursuit", "refit": "the encoder's latents, best weights"}


def pursue(
    sae: SAE[Any], x: Float[Tensor, "token d"], l0: int | Int[Tensor, " token"] | None = None
) -> tuple[SparseCodes, Float[Tensor, "token d"]]:
    """Encode x by gradient pursuit on the SAE's decoder and reconstruct it; by default with each token's own L0.

    An SAE that normalises its input is pursued in the normalised space, and its reconstruction brought back.
    """
    x = x.to(sae.W_dec.dtype)
    steps = encode(sae, x).l0 if l0 is None else l0
    codes = pursuit_codes(sae.run_time_activation_norm_fn_in(x), sae, steps)
    return codes, decoded(sae, x, codes)


def refit(sae: SAE[Any], x: Float[Tensor, "token d"]) -> tuple[SparseCodes, Float[Tensor, "token d"]]:
    """Keep the latents that the SAE's own encoder chose and give them their best non-negative weights."""
    x = x.to(sae.W_dec.dtype)
    own = padded(sae, encode(sae, x))
    codes = refit_weights(sae.run_time_activation_norm_fn_in(x) - sae.b_dec, sae.W_dec, own)
    return codes, decoded(sae, x, codes)


@torch.no_grad()
def decoded(sae: SAE[Any], x: Float[Tensor, "token d"], codes: SparseCodes) -> Float[Tensor, "token d"]:
    """The reconstruction of codes, in the space of x."""
    sae.run_time_activation_norm_fn_in(x)  # it remembers the scale that the way out undoes
    return sae.run_time_activation_norm_fn_out(codes.decode(sae.W_dec, sae.b_dec))


def padded(sae: SAE[Any], codes: Codes) -> SparseCodes:
    """An encoder's codes as rows of equal length, in weights of the decoder's rows as they are."""
    values = codes.values
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        values = values / sae.W_dec.norm(dim=-1)[codes.indices]
    l0 = codes.l0
    token = torch.repeat_interleave(torch.arange(len(l0), device=l0.device), l0)
    place = torch.arange(len(token), device=l0.device) - codes.offsets[token]
    indices = torch.zeros(len(l0), int(l0.max()), dtype=torch.int64, device=l0.device)
    weights = torch.zeros(indices.shape, dtype=values.dtype, device=l0.device)
    indices[token, place], weights[token, place] = codes.indices, values
    return SparseCodes(indices, weights)


def shared_support(pursued: SparseCodes, encoded: Codes, d_sae: int) -> Float[Tensor, " token"]:
    """Share of each token's pursued latents (weight above 0) that its encoder uses, too; 1 where it has none."""
    token = torch.repeat_interleave(torch.arange(len(encoded.offsets), device=encoded.l0.device), encoded.l0)
    row = torch.arange(len(pursued.indices), device=pursued.indices.device)[:, None]
    inside = torch.isin(row * d_sae + pursued.indices, token * d_sae + encoded.indices) & (pursued.weights > 0)
    return torch.where(pursued.l0 > 0, inside.sum(1) / pursued.l0.clamp_min(1), 1.0)


def encoded_result(study: Study, ref: SaeRef, encoder: str = "pursuit") -> tuple[dict[str, Any], Arrays]:
    """The decomposition of one SAE under another encoder of `ENCODERS`, kept in the store: metrics, per-token scalars.

    The data also holds `shared_support`: the mean share of a token's latents that the SAE's own encoder uses, too.
    """
    encoded = {"pursuit": pursue, "refit": refit}[encoder]
    key = {"of": study.result_key(ref), "encoder": encoder}

    def compute() -> tuple[Any, Arrays]:
        sae, site = study.load_sae(ref), study.site(ref.layer, ref.component)
        kept: dict[int, SparseCodes] = {}
        shared = torch.zeros(len(site.x))
        bar = tqdm(total=len(site.x), desc=f"{encoder} {ref.id}", unit="token", leave=False)

        def sae_out(rows: slice, x: Tensor) -> Tensor:
            if rows.start in kept:
                return decoded(sae, x, kept[rows.start])
            kept[rows.start], out = encoded(sae, x)
            shared[rows] = shared_support(kept[rows.start], encode(sae, x), ref.d_sae).cpu()
            bar.update(len(x))
            return out

        result = site.decomposer.run(sae_out, name=f"{encoder} on {ref.id}")
        bar.close()
        metrics = {name: estimate.plain() for name, estimate in result.metrics.items()}
        scalars = {name: result.scalars[name].numpy() for name in SCALARS}
        return {"metrics": metrics, "shared_support": float(shared.mean())}, scalars

    return study.store.kept("encoder", key, compute, sources=(__name__,))
