"""SAEs with a more powerful encoder (Section 6.1): gradient pursuit on the frozen decoder, measured like any SAE.

Each token is pursued with exactly as many atoms as its own encoder used. What changes is which latents are chosen and how
large they are; the decoder, the tokens and the protocol stay the same, so differences are paired token by token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.chapters.s06_1_pursuit.encoders import ENCODERS, decoded, encoded_result, padded, pursue
from dm_utils.engine.breakdown import WidthFits, curve, fvu_draws
from dm_utils.engine.explorer import Kernel
from dm_utils.maths.encoding import encode
from dm_utils.maths.pursuit import SparseCodes
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.scaling import percentiles

if TYPE_CHECKING:
    from dm_utils.engine.store import Arrays
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef


def measure(study: Study, refs: Sequence[SaeRef], encoder: str = "pursuit") -> pd.DataFrame:
    """One row per SAE as `Study.measure` gives it, with the metrics of another encoder's reconstructions instead."""
    results = [encoded_result(study, ref, encoder)[0] for ref in tqdm(refs, desc=encoder, unit="SAE", leave=False)]
    metrics = [{name: Estimate.from_plain(stored) for name, stored in some["metrics"].items()} for some in results]
    shared = [some["shared_support"] for some in results]
    return study.measure(refs).assign(**_wide(metrics), shared_support=shared, encoder=ENCODERS[encoder])


def _wide(rows: Sequence[Mapping[str, Estimate]]) -> pd.DataFrame:
    """One row per mapping, each estimate as the columns M, M_low, M_high."""
    return pd.DataFrame([{k: v for name, e in row.items() for k, v in e.columns(name).items()} for row in rows])


@dataclass(frozen=True)
class PairedNorms:
    """Squared norms [sae, token] of the errors of several SAEs at one site, by their own encoder and by another."""

    widths: list[int]
    own: dict[str, Float[Tensor, "sae token"]]
    other: dict[str, Float[Tensor, "sae token"]]


def paired_norms(study: Study, refs: Sequence[SaeRef], encoder: str = "pursuit") -> PairedNorms:
    """Per-token squared norms of the error and of its parts, before and after the encoder is replaced."""
    names = ("error_norm2", "linear_norm2", "nonlinear_norm2")

    def stack(scalars: Sequence[Arrays]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.stack([s[name] for s in scalars])) for name in names}

    before = stack([study.token_scalars(ref) for ref in refs])
    after = stack([encoded_result(study, ref, encoder)[1] for ref in refs])
    return PairedNorms([ref.d_sae for ref in refs], before, after)


def changes(study: Study, refs: Sequence[SaeRef], encoder: str = "pursuit") -> pd.DataFrame:
    """What another encoder changes, paired over tokens: one row per SAE, each metric with its 95 % interval.

    `fvu_drop` and `fvu_nonlinear_drop` are absolute (the second is the encoder error of Fig. 1); `*_drop_relative` are
    shares of the encoder's value; `linear_drop_share` is the share of the drop of FVU that the linear part accounts for.
    """
    norms, design = paired_norms(study, refs, encoder), study.site(refs[0].layer, refs[0].component).design
    p, found = study.profile, {}
    for name in ("error_norm2", "nonlinear_norm2"):
        before = fvu_draws(design, norms.own[name], p.n_bootstrap, p.seed)
        after = fvu_draws(design, norms.other[name], p.n_bootstrap, p.seed)
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
    rows = [dict(zip(columns, estimates, strict=True)) for estimates in zip(*columns.values(), strict=True)]
    return study.measure(refs).assign(**_wide(rows))


# --- Figure 1 with its fourth part --------------------------------------------------------------------------


def breakdown_with_encoder(
    before: WidthFits, after: WidthFits, widths: Sequence[float], falling: bool = False
) -> pd.DataFrame:
    """The curves of Fig. 1 with its fourth part: below FVU_nonlinear, what pursuit takes off it is encoder error.

    As `WidthFits.breakdown` (with the paper's horizontal lines, or with falling ones), and a part `encoder` between the
    curves of FVU_nonlinear after and before pursuit. Where pursuit does not lower it, the part has no height.
    """
    curves = before.breakdown(widths, falling)
    fit = after.fvu_nonlinear if falling else after.fvu_nonlinear_level
    level, draws = curve(fit, np.asarray(widths, dtype=float))
    nonlinear, rest = curves[curves["part"] == "nonlinear"], curves[curves["part"] != "nonlinear"]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    below = np.minimum(level, nonlinear["top"])
    encoder = nonlinear.assign(part="encoder", bottom=below)
    nonlinear = nonlinear.assign(
        top=below, top_low=np.minimum(low, nonlinear["top_low"]), top_high=np.minimum(high, nonlinear["top_high"])
    )
    return pd.concat([rest, encoder, nonlinear], ignore_index=True)


OWN, PURSUIT = "the SAE's own encoder", "gradient pursuit"


def token_paths(study: Study, ref: SaeRef, rows: Sequence[int], atoms: int = 32) -> pd.DataFrame:
    """Single tokens as atoms are added: pursuit's first k, beside the k largest latents of the SAE's own encoder.

    Returns
    -------
    DataFrame
        One row per ``token`` (its number and text, which comes from the wild), ``encoder`` and ``atoms`` (k): ``left``, the share
        of ‖x − mean‖² that remains, none of the SAE's own encoder beyond the token's own L0; ``latent, size``, lists of the atoms in
        order and of how long each stands in the sum; ``both``, whether the other encoder has each by then, too.
    """
    sae, site = study.load_sae(ref), study.site(ref.layer, ref.component)
    x = site.x[list(rows)].to(sae.W_dec.device)
    total = (x - site.design.mean.to(x)).square().sum(1)
    own = padded(sae, encode(sae, x))
    order = own.weights.argsort(dim=1, descending=True)
    own = SparseCodes(own.indices.gather(1, order), own.weights.gather(1, order))
    names = [f"{row}: {text!r}" for row, text in zip(rows, study.token_text(site.token_id[list(rows)]), strict=True)]
    norms, found = sae.W_dec.detach().norm(dim=1), []
    for k in range(min(atoms, ref.d_sae) + 1):
        sides = {OWN: SparseCodes(own.indices[:, :k], own.weights[:, :k]), PURSUIT: pursue(sae, x, k)[0]}
        left = {name: ((x - decoded(sae, x, codes)).square().sum(1) / total).tolist() for name, codes in sides.items()}
        for t, token in enumerate(names):
            chosen = {name: codes.indices[t][codes.weights[t] > 0].tolist() for name, codes in sides.items()}
            for name, other in ((OWN, PURSUIT), (PURSUIT, OWN)):
                codes = sides[name]
                size = (codes.weights[t] * norms[codes.indices[t]])[codes.weights[t] > 0].tolist()
                remains = left[name][t] if name == PURSUIT or k <= own.l0[t] else None
                row = {
                    "token": token,
                    "encoder": name,
                    "atoms": k,
                    "left": remains,
                    "latent": chosen[name],
                    "size": size,
                }
                found.append(row | {"both": [latent in chosen[other] for latent in chosen[name]]})
    return pd.DataFrame(found)


def latent_words(study: Study, ref: SaeRef, paths: pd.DataFrame, n: int = 2) -> dict[int, str]:
    """The tokens that each latent of `token_paths` writes for most, as text from the wild; none where it writes elsewhere."""
    latents = sorted({latent for some in paths["latent"] for latent in some})
    if ref.component == "att":  # what enters the projection is no direction of the residual stream
        return dict.fromkeys(latents, "")
    kernel = Kernel(study)
    weights = study.load_sae(ref).W_dec.detach()[latents].to(kernel.unembedding) @ kernel.unembedding.T
    tokens = study.token_text(weights.topk(n).indices.flatten().cpu())
    return {latent: " ".join(tokens[n * i : n * (i + 1)]) for i, latent in enumerate(latents)}
