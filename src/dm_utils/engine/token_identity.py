"""What of an SAE's error is more than which token it is on: Eqs. 10 and 11 beyond the means of tokens, and of three tokens.

Three predictors of the squared error norm and of the error vector: the activation x; a table of means by token, or by the token and
the two before it; and both, the table first and then least squares on what it leaves of x (Robinson's partially linear model). A
fitting token is left out of its own mean, so that what the table leaves of it is like what it leaves of a held-out token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.engine.latent_sample import first_whole_contexts
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, Sums

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

X, TOKEN, TOKENS = "x", "token", "3 tokens"  # TOKENS: the token and the two before it
BEYOND = {TOKEN: f"{TOKEN} + x", TOKENS: f"{TOKENS} + x"}
PREDICTORS = (X, TOKEN, BEYOND[TOKEN], TOKENS, BEYOND[TOKENS])
STRENGTHS = (1, 4, 16)  # tokens with mean zero that a rare pair or triple counts beside its own; the best one is chosen
COLUMNS = 256  # at a time, for memory
LARGEST = 2**28  # numbers in one array of activations: wider models use fewer contexts


def token_table(study: Study, refs: Sequence[SaeRef]) -> pd.DataFrame:
    """How far the activation and the last tokens predict each SAE's error, held out.

    Returns
    -------
    DataFrame
        One row per SAE and predictor of `PREDICTORS`: the SAE's columns, `predictor`, and with `_low` and `_high`: `r2_norm` (of
        Eq. 10's target), `r2_vector` (of Eq. 11's, variance-weighted) and `fvu` (of Sae(x) plus the prediction; from x it is
        FVU nonlinear). Rows of `BEYOND` also hold `beyond_norm` and `beyond_vector`, what x explains of what the table
        leaves, and `of_nonlinear`, the share of NonlinearError's variance that the table takes off.
    """
    rows = []
    for ref in tqdm(refs, desc="token identity", unit="SAE", leave=False):

        def compute(ref: SaeRef = ref) -> tuple[Any, None]:
            return _measured(study, ref), None

        kept = study.store.kept("token_identity", study.result_key(ref), compute, sources=(__name__,))
        about = {
            name: getattr(ref, name) for name in ("hook_name", "layer", "component", "architecture", "d_sae", "l0")
        }
        for predictor, found in kept[0].items():
            estimates = {name: Estimate.from_plain(plain) for name, plain in found.items()}
            flat = {column: v for name, e in estimates.items() for column, v in e.columns(name).items()}
            rows.append({"sae_id": ref.id, **about, "predictor": predictor, **flat})
    return pd.DataFrame(rows)


def last_tokens(
    contexts: Int[Tensor, "context ctx_len"], positions: Int[Tensor, " kept"]
) -> dict[str, list[Int[Tensor, " token"]]]:
    """For each table the groups that it takes means of, coarse to fine: tokens; then tokens, pairs and triples of tokens."""
    ids = [contexts[:, (positions - back).clamp_min(0)].flatten().long() for back in range(3)]
    size = int(contexts.max()) + 1
    pairs = ids[0] + size * ids[1]
    return {TOKEN: [ids[0]], TOKENS: [ids[0], pairs, pairs + size * size * ids[2]]}


def beyond_means(
    columns: Float[Tensor, "token column"], groups: Sequence[Int[Tensor, " token"]], split: Split
) -> Float[Tensor, "token column"]:
    """Columns less the means of the fitting tokens of their group, then of its finer group, and so on.

    The first means are plain (an unseen group has the overall mean); finer ones are pulled towards zero by the strength of
    `STRENGTHS` that predicts the fitting tokens best. No fitting token counts in its own mean.
    """
    indexed = [torch.unique(group, return_inverse=True)[1] for group in groups]
    left = torch.empty_like(columns)
    for some in torch.arange(columns.shape[1]).split(COLUMNS):
        part = columns[:, some].double()
        part -= part[split.fit].mean(0)
        for level, index in enumerate(indexed):
            part = _less_means(part, index, split, STRENGTHS if level else (0,))
        left[:, some] = part.to(left.dtype)
    return left


def _less_means(
    part: Float[Tensor, "token column"], index: Int[Tensor, " token"], split: Split, strengths: Sequence[int]
) -> Float[Tensor, "token column"]:
    n_groups, fit = int(index.max()) + 1, split.fit
    count = torch.bincount(index[fit], minlength=n_groups).double()
    total = torch.zeros(n_groups, part.shape[1], dtype=torch.float64).index_add_(0, index[fit], part[fit])
    others, n_others = total[index[fit]] - part[fit], count[index[fit]] - 1

    def inside(strength: int) -> Tensor:
        return part[fit] - others / (n_others + strength).clamp_min(1)[:, None]

    strength = min(strengths, key=lambda s: float(inside(s).square().sum())) if len(strengths) > 1 else strengths[0]
    left = part - (total / (count + strength).clamp_min(1)[:, None])[index]
    left[fit] = inside(strength)
    return left


def _measured(study: Study, ref: SaeRef) -> dict[str, dict[str, Any]]:
    """The estimates of every predictor, as the store keeps them."""
    p, site = study.profile, study.site(ref.layer, ref.component)
    n = first_whole_contexts(site.context, max(LARGEST // site.x.shape[1], 1))
    x, split = site.x[:n], Split(site.split.fit[:n], site.split.group[:n])
    error = torch.cat([(block - out).cpu() for rows, block, out in study.reconstructions(ref) if rows.start < n])[:n]
    norm2 = error.square().sum(1, keepdim=True)
    targets = torch.cat([norm2 / norm2.max().clamp_min(torch.finfo(norm2.dtype).tiny), error], 1)  # [token, 1 + d]
    tables = {
        name: [group[:n] for group in groups] for name, groups in last_tokens(study.contexts, _kept(study)).items()
    }
    left = residuals(x, targets, tables, split)
    resampled = Bootstrap(_sums(x, targets, left, split), p.n_bootstrap, p.seed)
    return {name: {k: e.plain() for k, e in _estimates(resampled, name).items()} for name in PREDICTORS}


def _kept(study: Study) -> Int[Tensor, " kept"]:
    return torch.arange(study.profile.skip, study.profile.ctx_len - 1)


def residuals(
    x: Float[Tensor, "token d"],
    targets: Float[Tensor, "token target"],
    tables: Mapping[str, Sequence[Int[Tensor, " token"]]],
    split: Split,
) -> dict[str, Float[Tensor, "token 2"]]:
    """What each predictor leaves of the targets: the square of the first column, and the squares of the others, summed."""
    found = {X: _squares(_after(x, targets, split))}
    for name, groups in tables.items():
        rest = beyond_means(targets, groups, split)
        found[name] = _squares(rest)
        found[BEYOND[name]] = _squares(_after(beyond_means(x, groups, split), rest, split))
    return found


def _after(x: Float[Tensor, "token d"], targets: Float[Tensor, "token target"], split: Split) -> Tensor:
    """Targets less their least-squares fit to x."""
    design = Design(x, split, name="what is left of x")
    fitted = design.fit_map(lambda rows, _: targets[rows])
    return torch.cat([targets[rows] - fitted(block) for rows, block in design.blocks()])


def _squares(left: Float[Tensor, "token target"]) -> Float[Tensor, "token 2"]:
    return torch.stack([left[:, 0].double().square(), left[:, 1:].square().sum(1).double()], 1)


def _sums(x: Tensor, targets: Tensor, left: Mapping[str, Tensor], split: Split) -> Sums:
    sums, everything = HeldOutSums(split), slice(0, len(x))
    x, y = x - x[split.fit].mean(0), targets - targets[split.fit].mean(0)
    sums.add(everything, activation=x, activation2=x.square().sum(1), y=y, y2=_squares(y), **left)
    return sums.totals


def _estimates(resampled: Bootstrap, name: str) -> dict[str, Estimate]:
    """The metrics of one predictor (see `token_table`)."""
    table = next((table for table, both in BEYOND.items() if both == name), None)
    estimate = resampled.estimate
    found = {
        "r2_norm": estimate(lambda s: 1 - s[name][:, 0] / _total(s)[:, 0]),
        "r2_vector": estimate(lambda s: 1 - s[name][:, 1] / _total(s)[:, 1]),
        "fvu": estimate(lambda s: s[name][:, 1] / _variance(s)),
    }
    if table is None:
        return found
    return found | {
        "beyond_norm": estimate(lambda s: 1 - s[name][:, 0] / s[table][:, 0]),
        "beyond_vector": estimate(lambda s: 1 - s[name][:, 1] / s[table][:, 1]),
        "of_nonlinear": estimate(lambda s: 1 - s[name][:, 1] / s[X][:, 1]),
    }


def _variance(sums: Sums) -> Float[Tensor, " draw"]:
    """That of x, times n, summed over dimensions."""
    return sums["activation2"][:, 0] - (sums["activation"] ** 2 / sums["n"]).sum(1)


def _total(sums: Sums) -> Float[Tensor, "draw 2"]:
    """The variance times n of the norm, and of the vector."""
    mean2 = sums["y"] ** 2 / sums["n"]
    return sums["y2"] - torch.stack([mean2[:, 0], mean2[:, 1:].sum(1)], 1)
