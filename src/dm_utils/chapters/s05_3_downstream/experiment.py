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

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.base.names import PARTS
from dm_utils.engine.splice import Spliced, splice
from dm_utils.maths.encoding import reconstruct
from dm_utils.maths.resampling import Bootstrap, Estimate, Sums

if TYPE_CHECKING:
    from dm_utils.engine.store import Arrays
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

WITHOUT = {"error": "sae", "linear": "sae_nonlinear", "nonlinear": "sae_linear"}
"""The variant that is x without a part."""
SHARED = "shared"
Statistic = Callable[[Sums], Float[Tensor, " draw"]]


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
        No SAEs, SAEs of different sites, or fewer than 2 or more contexts than the study has.
    """
    sites = {ref.hook_name for ref in refs}
    if len(sites) != 1:
        raise ValueError(f"the SAEs sit at {len(sites)} sites ({', '.join(sorted(sites))}); give SAEs of one site")
    if not 2 <= n_contexts <= study.profile.n_contexts:
        raise ValueError(
            f"n_contexts is {n_contexts}; it must be from 2 to {study.profile.n_contexts}, the study's own"
        )
    keys = {ref.id: _key(study, study.result_key(ref), n_contexts) for ref in refs}
    keys[SHARED] = _key(study, {"site": study.result_key(refs[0])["site"]}, n_contexts)
    missing = [ref for ref in refs if not study.store.holds("downstream", keys[ref.id], sources=(__name__,))]
    fresh = _run(study, missing or refs[:1], n_contexts) if missing else {}
    found = {}
    for name, key in keys.items():

        def compute(name: str = name) -> tuple[Any, Arrays | None]:
            return fresh.get(name) or _run(study, refs, n_contexts)[name]

        data, arrays = study.store.kept("downstream", key, compute, sources=(__name__,))
        found[name] = data | arrays
    return found


def _key(study: Study, what: dict[str, Any], n_contexts: int) -> dict[str, Any]:
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


# --- what the losses say -----------------------------------------------------------------------------------


def context_sums(context: Int[Tensor, " token"], columns: dict[str, Float[Tensor, " token"]]) -> Sums:
    """Sum per-token columns over each context, as `regression.Bootstrap` takes them."""
    found, index = torch.unique(context, return_inverse=True)
    ones = torch.ones(len(context), dtype=torch.float64)
    return {
        name: torch.zeros(len(found), 1, dtype=torch.float64).index_add_(0, index, column.double()[:, None])
        for name, column in {"n": ones, **columns}.items()
    }


def recovered(sums: Sums, variant: str, loss: str = "ce") -> Float[Tensor, " draw"]:
    """Share of the loss that Sae(x) costs and that a variant wins back: (L_sae − L_variant) / (L_sae − L_original)."""
    cost = sums[f"{loss}_sae"] - sums[f"{loss}_original"]
    return ((sums[f"{loss}_sae"] - sums[f"{loss}_{variant}"]) / cost)[:, 0]


def _share_of_variance(sums: Sums, part: str) -> Float[Tensor, " draw"]:
    """Share of the unexplained variance that adding a part back removes: 1 − Σ‖the other part‖² / Σ‖SaeError‖²."""
    other = "nonlinear" if part == "linear" else "linear"
    return (1 - sums[f"{other}_norm2"] / sums["error_norm2"])[:, 0]


def _ratio(sums: Sums, top: str, bottom: str) -> Float[Tensor, " draw"]:
    return (sums[top] / sums[bottom])[:, 0]


def statistics() -> dict[str, Statistic]:
    """Every statistic of the chapter, by name: a function of context sums."""
    found: dict[str, Statistic] = {"ce_increase": lambda s: ((s["ce_sae"] - s["ce_original"]) / s["n"])[:, 0]}
    for loss in ("ce", "kl"):
        for variant in ("linear", "nonlinear", "both", "random_linear", "random_nonlinear"):
            found[f"{loss}_recovered_{variant}"] = partial(recovered, variant=f"sae_{variant}", loss=loss)
    for part in ("linear", "nonlinear"):
        found[f"share_norm_{part}"] = partial(_ratio, top=f"{part}_norm", bottom="error_norm")
        found[f"share_norm_of_sae_{part}"] = partial(_ratio, top=f"{part}_norm", bottom="sae_norm")
        found[f"share_variance_{part}"] = partial(_share_of_variance, part=part)
    for part, variant in WITHOUT.items():
        found[f"kl_without_{part}"] = partial(_ratio, top=f"kl_{variant}", bottom="n")
        for kind in ("random", "difference"):
            found[f"kl_{kind}_{part}"] = partial(_ratio, top=f"kl_{kind}_{part}", bottom="n")
            found[f"kl_over_{kind}_{part}"] = partial(_ratio, top=f"kl_{variant}", bottom=f"kl_{kind}_{part}")
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
    `share_variance_*` is the share of the unexplained variance that the part removes; `kl_over_random_*` is the KL of x
    without a part over that of x moved as far in a random direction.
    """
    p, functions = study.profile, statistics()
    rows: list[dict[str, Estimate]] = []
    table = study.measure(refs)
    for ref in refs:
        sums = context_sums(torch.from_numpy(losses[ref.id]["context"]), sae_columns(study, ref, losses))
        estimate = Bootstrap(sums, p.n_bootstrap, p.seed).estimate
        note = "the SAE costs no loss"
        rows.append({name: estimate(statistic, note) for name, statistic in functions.items()})
    return pd.concat([table, as_columns(rows)], axis=1)


def as_columns(rows: Sequence[dict[str, Estimate]]) -> pd.DataFrame:
    """Columns M, M_low, M_high of the estimates M of each row."""
    ends = {"": "value", "_low": "low", "_high": "high"}
    return pd.DataFrame(
        [{f"{n}{tail}": getattr(e, end) for n, e in row.items() for tail, end in ends.items()} for row in rows]
    )


def reference_losses(losses: dict[str, dict[str, Any]], n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """Mean cross-entropy in nats per token of the original model, and with the mean and zero spliced in."""
    entry = losses[SHARED]
    columns = {name: torch.from_numpy(entry["cross_entropy"][i]) for i, name in enumerate(entry["names"])}
    estimate = Bootstrap(context_sums(torch.from_numpy(entry["context"]), columns), n_bootstrap, seed).estimate
    return {name: estimate(partial(_ratio, top=name, bottom="n")) for name in columns}


# --- mixtures ----------------------------------------------------------------------------------------------


def mixing_grid(study: Study, ref: SaeRef, n_contexts: int = 8, steps: int = 5) -> pd.DataFrame:
    """Loss of Sae(x) + a LinearError(x) + b NonlinearError(x) over a grid of shares a and b from 0 to 1.

    Returns
    -------
    DataFrame
        ``linear`` (a), ``nonlinear`` (b), and ``value, low, high``: nats per held-out token above the original.
    """
    p, site = study.profile, study.site(ref.layer, ref.component)
    shares = [i / (steps - 1) for i in range(steps)]
    key = _key(study, study.result_key(ref), n_contexts) | {"mixtures": shares}

    def compute() -> tuple[Any, None]:
        sae, error_map = study.load_sae(ref), study.error_map(ref)

        def variants(x: Tensor, _: int) -> dict[str, Tensor]:
            sae_out, linear = reconstruct(sae, x.to(sae.W_dec.device)).to(x), error_map(x)
            nonlinear = x - sae_out - linear
            return {f"{a} {b}": sae_out + a * linear + b * nonlinear for a in shares for b in shares}

        scored = ~site.split.fit.view(p.n_contexts, -1)[:n_contexts]
        contexts, kept = study.contexts[:n_contexts], slice(p.skip, p.ctx_len - 1)
        at_once = max(12, 2 * p.batch)
        found = splice(study.model, contexts, site.hook_name, variants, kept=kept, scored=scored, at_once=at_once)
        extra = found.cross_entropy[1:] - found.cross_entropy[:1]
        sums = context_sums(found.context, dict(zip(found.names[1:], extra, strict=True)))
        estimate = Bootstrap(sums, p.n_bootstrap, p.seed).estimate
        cells = {name: estimate(partial(_ratio, top=name, bottom="n")) for name in found.names[1:]}
        return [[*map(float, name.split()), e.value, e.low, e.high] for name, e in cells.items()], None

    rows = study.store.kept("downstream", key, compute, sources=(__name__,))[0]
    return pd.DataFrame(rows, columns=["linear", "nonlinear", "value", "low", "high"])
