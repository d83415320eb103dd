"""What each part of the SAE error costs downstream (Section 5.3, Fig. 8), with the controls that later work asked for.

Each SAE is spliced into the model in several variants, whose names say what stands in the place of x:

    sae                    Sae(x)                     that is, x without SaeError(x)
    sae_linear             Sae(x) + LinearError(x)    that is, x without NonlinearError(x)
    sae_nonlinear          Sae(x) + NonlinearError(x) that is, x without LinearError(x)
    sae_both               Sae(x) + both              x again, up to rounding
    sae_random_<part>      Sae(x) + a random direction as long as that part
    random_<part>          x + a random direction as long as that part (part: error, linear, nonlinear)
    difference_<part>      x + the difference of two other activations, made as long as that part

and, once for all SAEs, the mean activation and zero. Random directions are drawn per token, the same for every SAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.base.errors import check_range
from dm_utils.base.names import PARTS
from dm_utils.engine.splice import Spliced, splice
from dm_utils.maths.encoding import reconstruct

if TYPE_CHECKING:
    from dm_utils.engine.store import Arrays
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

WITHOUT = {"error": "sae", "linear": "sae_nonlinear", "nonlinear": "sae_linear"}
"""The variant that is x without a part."""
SHARED = "shared"


def error_variants(
    x: Float[Tensor, "token d"],
    sae_out: Float[Tensor, "token d"],
    linear: Float[Tensor, "token d"],
    rng: torch.Generator,
) -> dict[str, Float[Tensor, "token d"]]:
    """Return every variant of one SAE (names above) from x, Sae(x) and LinearError(x)."""
    error = x - sae_out
    vectors = {"error": error, "linear": linear, "nonlinear": error - linear}
    lengths = {part: vector.norm(dim=-1, keepdim=True) for part, vector in vectors.items()}
    isotropic, difference = random_directions(x, rng)
    found = {"sae": sae_out, "sae_linear": sae_out + linear, "sae_nonlinear": sae_out + vectors["nonlinear"]}
    found["sae_both"] = found["sae_linear"] + vectors["nonlinear"]
    found |= {f"sae_random_{part}": sae_out + lengths[part] * isotropic for part in ("linear", "nonlinear")}
    found |= {f"random_{part}": x + lengths[part] * isotropic for part in PARTS}
    return found | {f"difference_{part}": x + lengths[part] * difference for part in PARTS}


def random_directions(x: Float[Tensor, "token d"], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Unit vectors [token, d]: isotropic ones, and differences of two activations among ``x``, drawn at random.

    The two activations are different rows of ``x``; where they coincide the isotropic direction stands in.
    """
    isotropic = torch.nn.functional.normalize(torch.randn(x.shape, generator=rng).to(x), dim=-1)
    first = torch.randint(len(x), (len(x),), generator=rng)
    second = (first + torch.randint(1, max(2, len(x)), (len(x),), generator=rng)) % len(x)
    difference = x[first.to(x.device)] - x[second.to(x.device)]
    same = difference.norm(dim=-1, keepdim=True) == 0
    return isotropic, torch.nn.functional.normalize(torch.where(same, isotropic, difference), dim=-1)


def spliced_losses(study: Study, refs: Sequence[SaeRef], n_contexts: int = 64) -> dict[str, dict[str, Any]]:
    """Losses of the held-out tokens of the first contexts under every variant of every SAE, kept in the store.

    All SAEs that the store lacks are spliced in together, so the layers before the site run once per context (once per
    ``2 × batch`` variants, at least 12, where more do not fit).

    Returns
    -------
    dict
        For each SAE's id, and for ``"shared"`` (original, mean, zero): ``names`` (of the variants), arrays
        ``cross_entropy`` and ``kl`` float32 [variant, token] in nats, ``context`` and ``row`` int64 [token] (``row``
        counts the tokens of `study.site(…).x`), and ``hand_over`` as in `splice.Spliced`.

    Raises
    ------
    ValueError
        No SAEs, SAEs of different sites, or fewer than 2 or more contexts than the study has (a ParameterError).
    """
    sites = {ref.hook_name for ref in refs}
    if len(sites) != 1:
        raise ValueError(f"the SAEs sit at {len(sites)} sites ({', '.join(sorted(sites))}); give SAEs of one site")
    check_range("n_contexts", n_contexts, 2, study.profile.n_contexts, whole=True)
    keys = {ref.id: splice_key(study, study.result_key(ref), n_contexts) for ref in refs}
    keys[SHARED] = splice_key(study, {"site": study.result_key(refs[0])["site"]}, n_contexts)
    missing = [ref for ref in refs if not study.store.holds("downstream", keys[ref.id], sources=(__name__,))]
    fresh = _run(study, missing or refs[:1], n_contexts) if missing else {}
    found = {}
    for name, key in keys.items():

        def compute(name: str = name) -> tuple[Any, Arrays | None]:
            return fresh.get(name) or _run(study, refs, n_contexts)[name]

        data, arrays = study.store.kept("downstream", key, compute, sources=(__name__,))
        found[name] = data | arrays
    return found


def splice_key(study: Study, what: dict[str, Any], n_contexts: int) -> dict[str, Any]:
    """What determines a splice beside the code."""
    p = study.profile
    protocol = {"n_contexts": n_contexts, "seed": p.seed, "fit_fraction": p.fit_fraction, "split_by": p.split_by}
    return {"of": what, "protocol": protocol}


def _run(study: Study, refs: Sequence[SaeRef], n_contexts: int) -> dict[str, tuple[Any, Arrays]]:
    """Splice every variant of every SAE in, and sort the losses by SAE."""
    p, site = study.profile, study.site(refs[0].layer, refs[0].component)
    loaded = [(ref.id, study.load_sae(ref), study.error_map(ref)) for ref in refs]
    mean = site.design.mean.float()

    def variants(x: Tensor, context: int) -> dict[str, Tensor]:
        found = {"mean": mean.to(x.device).expand_as(x), "zero": torch.zeros_like(x)}
        for name, sae, error_map in loaded:
            rng = torch.Generator().manual_seed(p.seed * 1_000_003 + context)
            sae_out = reconstruct(sae, x.to(sae.W_dec.device)).to(x)
            found |= {f"{name}/{k}": v for k, v in error_variants(x, sae_out, error_map(x), rng).items()}
        return found

    result = splice(
        study.model,
        study.contexts[:n_contexts],
        site.hook_name,
        variants,
        kept=slice(p.skip, p.ctx_len - 1),
        scored=~site.split.fit.view(p.n_contexts, -1)[:n_contexts],
        at_once=max(12, 2 * p.batch),
    )
    return _by_sae(result, [ref.id for ref in refs], p.skip, p.kept_per_context)


def _by_sae(result: Spliced, ids: Sequence[str], skip: int, per_context: int) -> dict[str, tuple[Any, Arrays]]:
    where = {"context": result.context.numpy(), "row": (result.context * per_context + result.position - skip).numpy()}
    found = {}
    for owner in (SHARED, *ids):
        prefix = "" if owner == SHARED else f"{owner}/"
        mine = [i for i, name in enumerate(result.names) if name.rpartition("/")[0] == prefix.rstrip("/")]
        arrays = {"cross_entropy": result.cross_entropy[mine].numpy(), "kl": result.kl[mine].numpy()}
        names = [result.names[i].removeprefix(prefix) for i in mine]
        found[owner] = ({"names": names, "hand_over": result.hand_over}, arrays | where)
    return found
