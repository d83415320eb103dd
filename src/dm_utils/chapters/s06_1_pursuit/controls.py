"""How much of pursuit's gain needs learned directions: random dictionaries, and a Gaussian twin of x (Section 6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.chapters.s06_1_pursuit.encoders import pursue
from dm_utils.maths.decomposition import total_variance
from dm_utils.maths.encoding import encode, reconstruct
from dm_utils.maths.pursuit import gradient_pursuit
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef


def gaussian_twin(x: Float[Tensor, "token d"], n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
    """Draw ``n`` Gaussian vectors with the mean and covariance of the rows of x."""
    values, vectors = torch.linalg.eigh(torch.cov(x.double().T))
    root = vectors * values.clamp_min(0).sqrt()
    return (torch.randn(n, x.shape[1], generator=rng, dtype=torch.float64) @ root.T).to(x) + x.mean(0)


def dictionary_controls(study: Study, ref: SaeRef, n_tokens: int = 4096) -> pd.DataFrame:
    """FVU of pursuit where it can find no learned feature, on the first held-out tokens of the site.

    Returns
    -------
    DataFrame
        ``case, fvu, fvu_low, fvu_high``, each pursued with the same L0s: ``trained``, x on the SAE's dictionary;
        ``random``, x on as many random unit atoms, drawn with the covariance of x, with the mean of x as bias; ``twin``,
        a Gaussian twin of x on the SAE's dictionary; and ``encoder``, x by the SAE's own encoder. And ``d_sae, sae_id``.
    """
    key = {"of": study.result_key(ref), "n_tokens": n_tokens}

    def compute() -> tuple[Any, None]:
        sae, site = study.load_sae(ref), study.site(ref.layer, ref.component)
        rows = (~site.split.fit).nonzero().squeeze(1)[:n_tokens]
        known, rng = site.x[site.split.fit], torch.Generator().manual_seed(study.profile.seed)
        x, twin = site.x[rows].to(sae.W_dec.device), gaussian_twin(known, len(rows), rng).to(sae.W_dec.device)
        l0, bias = encode(sae, x).l0, known.mean(0).to(x)
        atoms = torch.nn.functional.normalize(gaussian_twin(known - known.mean(0), ref.d_sae, rng), dim=1).to(x)
        cases = {"trained": (x, pursue(sae, x)[1]), "twin": (twin, pursue(sae, twin, l0)[1])}
        cases["random"] = (x, gradient_pursuit(x - bias, atoms, l0).decode(atoms, bias))
        cases["encoder"] = (x, reconstruct(sae, x))
        p, context = study.profile, site.context[rows]
        found = {name: fvu_of(*pair, context, p.n_bootstrap, p.seed) for name, pair in cases.items()}
        return {name: estimate.plain() for name, estimate in found.items()}, None

    data = study.store.kept("pursuit_controls", key, compute, sources=(__name__,))[0]
    about = {"d_sae": ref.d_sae, "sae_id": ref.id}
    return pd.DataFrame([{"case": k, **Estimate.from_plain(v).columns("fvu"), **about} for k, v in data.items()])


def fvu_of(
    x: Float[Tensor, "token d"],
    sae_out: Float[Tensor, "token d"],
    context: Int[Tensor, " token"],
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """FVU of a reconstruction over all given tokens, with its interval over contexts."""
    everything = Split(torch.zeros(len(x), dtype=torch.bool), torch.unique(context, return_inverse=True)[1])
    sums, centred = HeldOutSums(everything), (x - x.mean(0)).double().cpu()
    error2 = (x - sae_out).double().cpu().square().sum(1)
    sums.add(slice(0, len(x)), x=centred, x2=centred**2, error2=error2)
    return Bootstrap(sums.totals, n_bootstrap, seed).estimate(lambda s: s["error2"][:, 0] / total_variance(s))
