"""SAEs with a more powerful encoder (Section 6.1): gradient pursuit on the frozen decoder, measured like any SAE.

Each token is pursued with exactly as many atoms as its own encoder used. What changes is which latents are chosen and how
large they are; the decoder, the tokens and the protocol stay the same, so differences are paired token by token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.engine.breakdown import WidthFits, curve, fvu_draws
from dm_utils.maths.codes import Codes
from dm_utils.maths.decomposition import SCALARS, total_variance
from dm_utils.maths.encoding import encode, reconstruct
from dm_utils.maths.pursuit import SparseCodes, gradient_pursuit, pursuit_codes, refit_weights
from dm_utils.maths.resampling import Bootstrap, Estimate
from dm_utils.maths.scaling import percentiles

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
        metrics = {name: [_plain(e.value), _plain(e.low), _plain(e.high)] for name, e in result.metrics.items()}
        scalars = {name: result.scalars[name].numpy() for name in SCALARS}
        return {"metrics": metrics, "shared_support": float(shared.mean())}, scalars

    return study.store.kept("encoder", key, compute, sources=(__name__,))


def shared_support(pursued: SparseCodes, encoded: Codes, d_sae: int) -> Float[Tensor, " token"]:
    """Share of each token's pursued latents (weight above 0) that its encoder uses, too; 1 where it has none."""
    token = torch.repeat_interleave(torch.arange(len(encoded.offsets), device=encoded.l0.device), encoded.l0)
    row = torch.arange(len(pursued.indices), device=pursued.indices.device)[:, None]
    inside = torch.isin(row * d_sae + pursued.indices, token * d_sae + encoded.indices) & (pursued.weights > 0)
    return torch.where(pursued.l0 > 0, inside.sum(1) / pursued.l0.clamp_min(1), 1.0)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def measure(study: Study, refs: Sequence[SaeRef], encoder: str = "pursuit") -> pd.DataFrame:
    """One row per SAE as `Study.measure` gives it, with the metrics of another encoder's reconstructions instead."""
    table = study.measure(refs)
    rows = [encoded_result(study, ref, encoder)[0] for ref in tqdm(refs, desc=encoder, unit="SAE", leave=False)]
    for name in rows[0]["metrics"] if rows else ():
        for i, tail in enumerate(("", "_low", "_high")):
            table[f"{name}{tail}"] = [row["metrics"][name][i] for row in rows]
    return table.assign(shared_support=[row["shared_support"] for row in rows], encoder=ENCODERS[encoder])


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
    ends = {"": "value", "_low": "low", "_high": "high"}
    wide = {f"{n}{tail}": [getattr(e, end) for e in v] for n, v in columns.items() for tail, end in ends.items()}
    return study.measure(refs).assign(**wide)


# --- how much of it any dictionary could do -----------------------------------------------------------------


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
        a Gaussian twin of x on the SAE's dictionary; and ``encoder``, x by the SAE's own encoder.
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
        return {name: [e.value, e.low, e.high] for name, e in found.items()}, None

    data = study.store.kept("pursuit_controls", key, compute, sources=(__name__,))[0]
    return pd.DataFrame([[name, *e] for name, e in data.items()], columns=["case", "fvu", "fvu_low", "fvu_high"])


def fvu_of(
    x: Float[Tensor, "token d"],
    sae_out: Float[Tensor, "token d"],
    context: Int[Tensor, " token"],
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """FVU of a reconstruction over all given tokens, with its interval over contexts."""
    index = torch.unique(context, return_inverse=True)[1]
    centred, error = (x - x.mean(0)).double().cpu(), (x - sae_out).double().cpu()
    columns = {
        "n": torch.ones(len(x), 1),
        "x": centred,
        "x2": centred**2,
        "error2": error.square().sum(1, keepdim=True),
    }
    sums = {
        name: torch.zeros(int(index.max()) + 1, values.shape[1], dtype=torch.float64).index_add_(
            0, index, values.double()
        )
        for name, values in columns.items()
    }
    return Bootstrap(sums, n_bootstrap, seed).estimate(lambda s: s["error2"][:, 0] / total_variance(s))


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


def token_paths(study: Study, ref: SaeRef, rows: Sequence[int], atoms: int = 32) -> pd.DataFrame:
    """What is left of single tokens as atoms are added: pursuit's first k, and the encoder's k largest latents.

    Returns
    -------
    DataFrame
        ``token`` (its number and text, which comes from the wild), ``encoder``, ``atoms`` (k), ``left``: the share of
        ‖x − mean‖² that remains. The encoder's line ends at the token's own L0.
    """
    sae, site = study.load_sae(ref), study.site(ref.layer, ref.component)
    x = site.x[list(rows)].to(sae.W_dec.device)
    total = (x - site.design.mean.to(x)).square().sum(1)
    own = padded(sae, encode(sae, x))
    order = own.weights.argsort(dim=1, descending=True)
    own = SparseCodes(own.indices.gather(1, order), own.weights.gather(1, order))
    names = [f"{row}: {text!r}" for row, text in zip(rows, study.token_text(site.token_id[list(rows)]), strict=True)]
    found = []
    for k in range(min(atoms, ref.d_sae) + 1):
        kept = SparseCodes(own.indices[:, :k], own.weights[:, :k])
        for encoder, out in (
            ("the SAE's own encoder", decoded(sae, x, kept)),
            ("gradient pursuit", pursue(sae, x, k)[1]),
        ):
            left = ((x - out).square().sum(1) / total).tolist()
            ends = own.l0 if encoder != "gradient pursuit" else torch.full_like(own.l0, k)
            found += [(n, encoder, k, v) for n, v, end in zip(names, left, ends.tolist(), strict=True) if k <= end]
    return pd.DataFrame(found, columns=["token", "encoder", "atoms", "left"])
