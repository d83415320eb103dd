"""Pass Sae(x) through its SAE again with planted noise and masked latents, and see what the method recovers (App. C.3).

x' = Sae(x) is a sparse sum of known vectors. Noise added to x' plays Dense(x'), noise added to Sae(x') plays
Introduced(x'), and latents masked before the encoder chooses play the features that a smaller SAE lacks. The method of
Appendix B.2 then estimates Introduced by what a linear map of the input leaves unexplained, and Dense by the rest of the
error of the full SAE. Everything is reported in units of the variance of x', so that recovered and planted amounts compare.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.chapters.C_synthetic.recovery import Recovery, shares
from dm_utils.engine.latent_sample import first_whole_contexts
from dm_utils.engine.store import Arrays
from dm_utils.engine.study import Study
from dm_utils.maths import masking, noise, synthetic
from dm_utils.maths.encoding import encode, reconstruct
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Bootstrap, HeldOutSums, Split
from dm_utils.world.sae_ref import SaeRef

OFF = -1e9  # a pre-activation that no encoder selects


@dataclass(frozen=True)
class NoisePlan:
    """What is planted, on which tokens.

    Attributes
    ----------
    noise_x, noise_sae : levels of the noise on x' and on Sae(x'), as fractions of the variance of x'.
    masked : fractions of the latents that are masked.
    kind_x, kind_sae : laws of the two noises, names of `noise.LAWS`.
    correlation : None for independent noises; otherwise both are Gaussian with this correlation.
    order : which latents are masked first, one of `synthetic.ORDERS`.
    n_tokens : how many of the site's tokens to use, at most (whole contexts).
    """

    noise_x: Sequence[float] = (0.0, 0.05, 0.1, 0.2)
    noise_sae: Sequence[float] = (0.0, 0.05, 0.1, 0.2)
    masked: Sequence[float] = (0.0,)
    kind_x: str = "gaussian"
    kind_sae: str = "gaussian"
    correlation: float | None = None
    order: str = "rarest first"
    n_tokens: int = 20_000
    seed: int = 0
    n_bootstrap: int = 500

    def __post_init__(self) -> None:
        for name in ("noise_x", "noise_sae", "masked"):
            if not getattr(self, name) or min(getattr(self, name)) < 0:
                raise ValueError(f"{name} = {getattr(self, name)!r}: give one level or more, none negative.")
        if max(self.masked) >= 1:
            raise ValueError(f"masked = {self.masked!r}: a masked fraction lies in [0, 1); at 1 no SAE is left.")


def mask_latents(sae: Any, kept: Bool[Tensor, " latent"]) -> Any:
    """Return a copy of an SAE whose masked latents can never fire; the encoder chooses among the others.

    Raises ``ValueError`` if the mask's length is not d_sae or the SAE has no encoder bias to mask with.
    """
    if not hasattr(sae, "b_enc") or len(kept) != len(sae.b_enc):
        raise ValueError(f"a mask of {len(kept)} latents does not fit this SAE ({sae.cfg.d_sae} latents).")
    masked = copy.deepcopy(sae)
    masked.b_enc.data[~kept.to(masked.b_enc.device)] = OFF
    return masked


def second_pass_input(study: Study, ref: SaeRef, n_tokens: int) -> tuple[Tensor, Tensor]:
    """x' = Sae(x) of the first whole contexts of the site, and the context of each token."""
    site, sae = study.site(ref.layer, ref.component), study.load_sae(ref)
    n_used = first_whole_contexts(site.context, n_tokens)
    return _pass(sae, site.x[:n_used]), site.context[:n_used]


def recover(study: Study, ref: SaeRef, plan: NoisePlan) -> Recovery:
    """Run Appendix C.3's synthetic test over a grid of noise levels and masked fractions, or load it from the store.

    The linear map is fitted for each input; noise on Sae(x') enters the error linearly, so its whole axis follows from one
    fit. Intervals resample held-out contexts.
    """
    key = study.result_key(ref) | {"plan": json.loads(json.dumps(asdict(plan)))}

    def compute() -> tuple[Any, Arrays]:
        found = _recover(study, ref, plan)
        return found.cells.to_dict("records"), {name: value.numpy() for name, value in found.draws.items()}

    cells, arrays = study.store.kept("planting", key, compute, sources=(__name__,))
    return Recovery(pd.DataFrame(cells), {name: torch.from_numpy(array) for name, array in arrays.items()})


def _recover(study: Study, ref: SaeRef, plan: NoisePlan) -> Recovery:
    x, context = second_pass_input(study, ref, plan.n_tokens)
    split = Split.random(context, study.profile.fit_fraction, plan.seed, study.profile.split_by)
    sae = study.load_sae(ref)
    kept = [masking.kept_after(_order(sae, x, plan), f) for f in plan.masked]
    unit_x, unit_sae = _unit_noises(x, plan)
    columns: dict[str, list[Tensor]] = {name: [] for name in ("e2", "en", "r2", "rn", "n2", "m2")}
    for level in tqdm(plan.noise_x, desc="noise levels", leave=False):
        given = x + level**0.5 * unit_x
        design = Design(given, split)
        left_noise = _left(design, unit_sae)
        columns["n2"].append(_dot(unit_sae, unit_sae))
        columns["m2"].append(_dot(left_noise, left_noise))
        for mask in kept:
            error = given - _pass(mask_latents(sae, mask), given)
            left = _left(design, error)
            products = (_dot(error, error), _dot(error, unit_sae), _dot(left, left), _dot(left, left_noise))
            for name, value in zip(("e2", "en", "r2", "rn"), products, strict=True):
                columns[name].append(value)
    sums = HeldOutSums(split)
    sums.add(slice(0, len(x)), x=x, x2=x**2, **{name: torch.stack(value, 1) for name, value in columns.items()})
    return _assemble(Bootstrap(sums.totals, plan.n_bootstrap, plan.seed), plan)


def _left(design: Design, target: Tensor) -> Tensor:
    """What the fitted affine map of the design does not explain of a target [token, d]."""
    return target - design.fit_map(lambda rows, _: target[rows])(design.x)


def _assemble(bootstrap: Bootstrap, plan: NoisePlan) -> Recovery:
    pairs = list(product(range(len(plan.noise_x)), range(len(plan.masked))))
    s = {name: torch.cat([bootstrap.observed[name], bootstrap.draws[name]]) for name in bootstrap.observed}
    total = (s["x2"] - s["x"] ** 2 / s["n"]).sum(1)
    which = torch.tensor([i for i, _ in pairs])
    cells, error, nonlinear = [], [], []
    for level in plan.noise_sae:  # error = e - sqrt(level) n, left = r - sqrt(level) m
        error.append(s["e2"] - 2 * level**0.5 * s["en"] + level * s["n2"][:, which])
        nonlinear.append(s["r2"] - 2 * level**0.5 * s["rn"] + level * s["m2"][:, which])
        cells += [{"noise_x": plan.noise_x[i], "masked": plan.masked[j], "noise_sae": level} for i, j in pairs]
    draws = {"error": torch.cat(error, 1) / total[:, None], "nonlinear": torch.cat(nonlinear, 1) / total[:, None]}
    return Recovery(pd.DataFrame(cells), draws)


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, " token"]:
    return (a * b).sum(1)


def _pass(sae: Any, x: Tensor) -> Tensor:
    device = sae.W_dec.device
    return torch.cat([reconstruct(sae, x[i : i + 8192].to(device)).cpu() for i in range(0, len(x), 8192)])


def _order(sae: Any, x: Tensor, plan: NoisePlan) -> Tensor:
    counts = torch.zeros(len(sae.b_enc), dtype=torch.long)
    for i in range(0, len(x), 8192):
        active = encode(sae, x[i : i + 8192].to(sae.W_dec.device)).indices.cpu()
        counts += torch.bincount(active, minlength=len(counts))
    return synthetic.mask_order(counts.double(), plan.order, plan.seed)


def _unit_noises(x: Tensor, plan: NoisePlan) -> tuple[Tensor, Tensor]:
    if plan.correlation is not None:
        return noise.draw_pair(x, 1.0, 1.0, plan.correlation, plan.seed)
    return noise.draw(plan.kind_x, x, 1.0, plan.seed), noise.draw(plan.kind_sae, x, 1.0, plan.seed + 1)


NOISE_NAMES = {"noise_x": "noise on x′", "noise_sae": "noise on Sae(x′)"}


def by_law(study: Study, ref: SaeRef, laws: Sequence[str], plan: NoisePlan) -> pd.DataFrame:
    """Slopes of :func:`shares` when the noise on x', or that on Sae(x'), follows each law while the other noise is absent.

    Returns columns ``noise, law, estimate`` ("dense" or "introduced"), ``value, low, high``.
    """
    rows = []
    for law, planted in product(laws, NOISE_NAMES):
        kind = "kind_x" if planted == "noise_x" else "kind_sae"
        quiet = "noise_sae" if planted == "noise_x" else "noise_x"
        one = replace(plan, **{quiet: (0.0,), kind: law, "masked": (0.0,)})  # type: ignore[arg-type]
        for (_, name), value in shares(recover(study, ref, one)).items():
            where = {"noise": NOISE_NAMES[planted], "law": law, "estimate": name}
            rows.append(where | value.columns())
    return pd.DataFrame(rows)


def by_correlation(
    study: Study,
    ref: SaeRef,
    level: float,
    plan: NoisePlan,
    correlations: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
) -> pd.DataFrame:
    """Both noises planted at one level with a given correlation: ``correlation`` and each estimate with its interval."""
    rows = []
    for r in correlations:
        one = replace(plan, noise_x=(0.0, level), noise_sae=(0.0, level), masked=(0.0,), correlation=r)
        table = recover(study, ref, one).table()
        both = table[(table["noise_x"] == level) & (table["noise_sae"] == level)]
        rows.append(both.assign(correlation=r))
    return pd.concat(rows, ignore_index=True)
