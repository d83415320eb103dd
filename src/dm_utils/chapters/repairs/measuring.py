"""What a repaired reconstruction leaves of x, by part, against the SAE as it was: paired over held-out contexts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dm_utils.engine.splice import Spliced, splice
from dm_utils.maths.decomposition import check_reconstruction, total_variance
from dm_utils.maths.regression import AffineMap, Design
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Sums

if TYPE_CHECKING:
    from dm_utils.engine.study import Site, Study

Reconstruct = Callable[[slice, Float[Tensor, "token d"]], Float[Tensor, "token d"]]
Splices = Callable[[Float[Tensor, "token d"]], dict[str, Float[Tensor, "token d"]]]
PARTS = ("fvu", "fvu_linear", "fvu_nonlinear")


def part_sums(design: Design, reconstruct: Reconstruct, name: str, fitted: AffineMap | None = None) -> Sums:
    """Per context, over held-out tokens: `error2` = Σ‖x − R(x)‖² and `nonlinear2`, what the best affine map of x leaves of it (Eq. 12).

    The error is x − R(x), so its nonlinear part is that of −R(x): what R(x) is beyond its own best affine map of x, `fitted` where it
    is known already.
    """
    fitted, sums = fitted or design.fit_map(reconstruct), HeldOutSums(design.split)
    for rows, x in design.blocks():
        out = reconstruct(rows, x)
        check_reconstruction(out, x, name, rows)
        left = (fitted(x) - out).square().sum(-1)
        sums.add(rows, error2=(x - out).square().sum(-1), nonlinear2=left)
    return sums.totals


def x_sums(design: Design) -> Sums:
    """Per context, over held-out tokens: what `total_variance` reads."""
    sums = HeldOutSums(design.split)
    for rows, x in design.blocks():
        centred = x - design.mean.to(x.device, x.dtype)
        sums.add(rows, x=centred, x2=centred**2)
    return sums.totals


def parts(x: Sums, before: Sums, after: Sums, n_bootstrap: int, seed: int) -> dict[str, Estimate]:
    """`fvu` after a repair and its linear and nonlinear part, `fvu_linear` + `fvu_nonlinear`; and what it `removed` of each, as shares.

    A share is 1 − after / before; negative where the repair adds.
    """
    named = {f"{name}_before": before[name] for name in ("error2", "nonlinear2")}
    drawn = Bootstrap(x | named | {name: after[name] for name in ("error2", "nonlinear2")}, n_bootstrap, seed)
    found = {name: drawn.estimate(partial(_fvu, name)) for name in PARTS}
    shares = {name.replace("fvu", "removed"): partial(_removed, name) for name in PARTS}
    found |= {name: drawn.estimate(share, "there was nothing to remove") for name, share in shares.items()}
    return found


def _fvu(name: str, sums: Sums) -> Float[Tensor, " draw"]:
    return _part(sums, name) / total_variance(sums)


def _removed(name: str, sums: Sums) -> Float[Tensor, " draw"]:
    return 1 - _part(sums, name) / _part(sums, name, "_before")


def _part(sums: Sums, name: str, when: str = "") -> Float[Tensor, " draw"]:
    error2, nonlinear2 = (sums[f"{part}{when}"][:, 0] for part in ("error2", "nonlinear2"))
    return {"fvu": error2, "fvu_linear": error2 - nonlinear2, "fvu_nonlinear": nonlinear2}[name]


def held_out_contexts(site: Site, n_contexts: int, at_most: int) -> Bool[Tensor, " context"]:
    """The first so many contexts that hold tokens out."""
    some = (~site.split.fit).view(n_contexts, -1).any(1)
    return some & (some.cumsum(0) <= at_most)


def spliced(study: Study, site: Site, reconstructions: Splices, at_most: int) -> Spliced:
    """The model's losses with reconstructions in the place of x, on the held-out tokens of the first contexts that hold some out."""
    p = study.profile
    chosen = held_out_contexts(site, p.n_contexts, at_most)
    return splice(
        study.model,
        study.contexts[chosen],
        site.hook_name,
        lambda x, _: reconstructions(x),
        kept=slice(p.skip, p.ctx_len - 1),
        scored=(~site.split.fit).view(p.n_contexts, -1)[chosen],
        at_once=max(12, 2 * p.batch),
        progress=False,
    )


def losses(found: Spliced) -> Sums:
    """Cross-entropy of every variant, `n` tokens and KL from the original (`kl_NAME`), summed per context."""
    columns = {name: row for name, row in zip(found.names, found.cross_entropy, strict=True)}
    columns |= {f"kl_{name}": row for name, row in zip(found.names, found.kl, strict=True)}
    columns |= {"n": torch.ones(found.cross_entropy.shape[1])}
    groups = torch.unique(found.context, return_inverse=True)[1]
    zeros = torch.zeros(int(groups.max()) + 1, 1, dtype=torch.float64)
    return {name: zeros.index_add(0, groups, row[:, None].double()) for name, row in columns.items()}


def downstream(sums: Mapping[str, Tensor], before: str, after: str, n_bootstrap: int, seed: int) -> dict[str, Estimate]:
    """`ce`, nats per token above the original; `kl` from it; `ce_removed`, the share of what the SAE costs that the repair wins back."""
    drawn = Bootstrap(dict(sums), n_bootstrap, seed)

    def cost(name: str, s: Sums) -> Tensor:
        return ((s[name] - s["original"]) / s["n"])[:, 0]

    return {
        "ce": drawn.estimate(partial(cost, after)),
        "kl": drawn.estimate(lambda s: (s[f"kl_{after}"] / s["n"])[:, 0]),
        "ce_removed": drawn.estimate(lambda s: 1 - cost(after, s) / cost(before, s), "the SAE costs no loss"),
    }
