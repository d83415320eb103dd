"""What a trained dictionary is measured by: the paper's quantities, what it costs the model, and what a search still takes off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils.engine.splice import Spliced, splice
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.engine.token_identity import BEYOND, TOKEN, TOKENS, token_table
from dm_utils.maths.encoding import encode, reconstruct
from dm_utils.maths.pursuit import SparseCodes, pursuit_codes
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums
from dm_utils.world.profiles import load_profile
from dm_utils.world.sae_ref import SaeRef
from dm_utils.world.saes import folder_catalog

METRICS = ("fvu", "fvu_nonlinear", "r2_error_norm", "r2_error_vector", "norm_ratio")
SPLICED_CONTEXTS = 24
PURSUED_L0 = 64.0  # denser codes than this are not pursued: a search costs as many products as latents
PURSUED = ("fvu_pursued", "fvu_nonlinear_pursued")
BEYOND_TOKENS = tuple(f"{column}_{part}" for column in ("beyond_token", "beyond_tokens") for part in ("norm", "vector"))
NOT_MEASURED = Estimate(math.nan, math.nan, math.nan, "not measured")


def reference(folder: Path) -> SaeRef:
    """The SAE that a folder holds."""
    return folder_catalog(folder, str(folder))[0]


def row(study: Study, folder: Path, all_of_it: bool = True) -> dict[str, Any]:
    """Everything measured of the SAE in a folder, each estimate as the columns M, M_low, M_high.

    Metrics of Section 4; `linear_share` of the squared error; `ce_recovered`, `ce_sae` and `kl` of the splice; `fvu_pursued` and
    `fvu_nonlinear_pursued` with gradient pursuit in the place of the encoder, each token at its own L0; what x says of the error beyond
    the means of the last token, or of the last three: `BEYOND_TOKENS`. The last two kinds are dear: only `all_of_it` measures them.
    """
    ref = reference(folder)
    measured = study.measure([ref]).iloc[0]
    found = {name: Estimate.read(measured, name) for name in METRICS}
    found["linear_share"] = linear_share(study, ref)
    found |= downstream(study, ref) | dict.fromkeys((*PURSUED, *BEYOND_TOKENS), NOT_MEASURED)
    if all_of_it:
        found |= beyond_tokens(study, ref)
    if all_of_it and measured["l0"] <= PURSUED_L0:
        found |= pursued(study, ref)
    columns = {key: value for name, estimate in found.items() for key, value in estimate.columns(name).items()}
    return {"l0": float(measured["l0"]), "dead_fraction": float(measured["dead_fraction"])} | columns


def linear_share(study: Study, ref: SaeRef) -> Estimate:
    """1 − Σ‖NonlinearError‖² / Σ‖SaeError‖² over held-out tokens: the share of the error that is linear in x."""
    scalars, sums = study.token_scalars(ref), HeldOutSums(study.site(ref.layer).split)
    columns = {name: torch.from_numpy(scalars[f"{name}_norm2"]) for name in ("error", "nonlinear")}
    sums.add(slice(None), **columns)
    drawn = Bootstrap(sums.totals, study.profile.n_bootstrap, study.profile.seed)
    return drawn.estimate(lambda s: 1 - s["nonlinear"][:, 0] / s["error"][:, 0])


def beyond_tokens(study: Study, ref: SaeRef) -> dict[str, Estimate]:
    """R² of Eqs. 10 and 11 for what the means of tokens leave, of the error and of x (see `engine.token_identity`)."""
    table = token_table(study, [ref]).set_index("predictor")
    return {
        f"{column}_{part}": Estimate.read(table.loc[BEYOND[name]], f"beyond_{part}")
        for column, name in (("beyond_token", TOKEN), ("beyond_tokens", TOKENS))
        for part in ("norm", "vector")
    }


def downstream(study: Study, ref: SaeRef) -> dict[str, Estimate]:
    """`ce_recovered`: (CE_mean − CE_Sae(x)) / (CE_mean − CE_x), the mean activation as zero; `ce_sae` and the `kl` from x, nats."""
    p, site, sae = study.profile, study.site(ref.layer), study.load_sae(ref)
    mean, n = site.design.mean.float(), min(SPLICED_CONTEXTS, study.profile.n_contexts)

    def variants(x: Tensor, context: int) -> dict[str, Tensor]:
        return {"mean": mean.expand_as(x), "sae": reconstruct(sae, x)}

    kept = slice(p.skip, p.ctx_len - 1)
    scored = ~site.split.fit.view(p.n_contexts, -1)[:n]
    spliced = splice(
        study.model, study.contexts[:n], site.hook_name, variants, kept=kept, scored=scored, progress=False
    )
    return recovered(spliced, p.n_bootstrap, p.seed)


def recovered(spliced: Spliced, n_bootstrap: int, seed: int) -> dict[str, Estimate]:
    """The estimates of `downstream` from losses of the variants original, mean and sae."""
    sums = {"n": torch.ones(len(spliced.context), 1).double()}
    sums |= {name: ce[:, None].double() for name, ce in zip(spliced.names, spliced.cross_entropy, strict=True)}
    sums["kl"] = spliced.kl[spliced.names.index("sae")][:, None].double()
    groups = int(spliced.context.max()) + 1
    totals = {k: torch.zeros(groups, 1).double().index_add_(0, spliced.context, v) for k, v in sums.items()}
    drawn = Bootstrap(totals, n_bootstrap, seed)
    share = drawn.estimate(lambda s: ((s["mean"] - s["sae"]) / (s["mean"] - s["original"]))[:, 0])

    def per_token(name: str) -> Estimate:
        return drawn.estimate(lambda s: (s[name] / s["n"])[:, 0])

    return {"ce_recovered": share, "ce_sae": per_token("sae"), "kl": per_token("kl")}


def pursued(study: Study, ref: SaeRef) -> dict[str, Estimate]:
    """FVU and FVU_nonlinear with gradient pursuit (Section 6.1) on the dictionary, each token at its own L0."""
    sae, site, kept = study.load_sae(ref), study.site(ref.layer), {}

    def sae_out(rows: slice, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        if rows.start not in kept:
            kept[rows.start] = pursuit_codes(x, sae, active(sae, x))
        codes: SparseCodes = kept[rows.start]
        return codes.decode(sae.W_dec, sae.b_dec)

    found = site.decomposer.run(sae_out, name=f"pursuit on {ref.id}").metrics
    return {name: found[name.removesuffix("_pursued")] for name in PURSUED}


def active(sae: Any, x: Float[Tensor, "token d"]) -> Int[Tensor, " token"]:
    """How many latents each token has."""
    return encode(sae, x).l0


def study_of(layer: int, contexts: int, store: Path, model: Path | None = None) -> Study:
    """The lab's study of a layer, on so many contexts of its evaluation text; what it keeps, it keeps in `store`.

    `model`: the folder of another model of the lab's shape, in the place of the lab's.
    """
    other = {} if model is None else {"model": str(model)}
    return Study(load_profile("lab", layer=layer, n_contexts=contexts, **other), Store(store))
