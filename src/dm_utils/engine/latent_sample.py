"""The latents of an SAE on a sample of tokens, with their decoder: what the theory of norms is held against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.engine.study import Study
from dm_utils.maths.encoding import encode
from dm_utils.world.sae_ref import SaeRef


@dataclass(frozen=True)
class LatentSample:
    """An SAE's latents on a site: ``weights`` sparse COO [token, latent], unit ``dictionary`` [latent, d], ``context`` [token].

    ``sae_out`` [token, d] is Sae(x) without its decoder bias, equal to ``weights @ dictionary``.
    """

    weights: Tensor
    dictionary: Float[Tensor, "latent d"]
    sae_out: Float[Tensor, "token d"]
    context: Int[Tensor, " token"]


def first_whole_contexts(context: Int[Tensor, " token"], n_tokens: int) -> int:
    """How many leading tokens whole contexts hold, at most ``n_tokens``, but the first context in any case."""
    if n_tokens >= len(context):
        return len(context)
    return int((context < max(1, int(context[n_tokens - 1]))).sum())


def latent_sample(study: Study, ref: SaeRef, n_tokens: int = 60_000) -> LatentSample:
    """Encode the first whole contexts of the SAE's site, at most ``n_tokens`` tokens."""
    site, sae = study.site(ref.layer, ref.component), study.load_sae(ref)
    n_used = first_whole_contexts(site.context, n_tokens)
    x = site.x[:n_used].to(sae.W_dec.device)
    scale = sae.W_dec.norm(dim=1)
    index, value, start = [], [], 0
    for block in x.split(8192):
        code = encode(sae, block)
        token = torch.repeat_interleave(torch.arange(len(block), device=block.device), code.l0)
        grows = 1.0 if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else scale[code.indices]
        index.append(torch.stack([token + start, code.indices]))
        value.append(code.values * grows)
        start += len(block)
    weights = torch.sparse_coo_tensor(
        torch.cat(index, 1).cpu(), torch.cat(value).cpu(), (len(x), ref.d_sae), check_invariants=False
    )
    weights = weights.coalesce()
    dictionary = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1).cpu()
    return LatentSample(weights, dictionary, torch.sparse.mm(weights, dictionary), site.context[:n_used])
