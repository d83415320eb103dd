"""How much of an SAE's error functions of the activation predict that are not linear, and linear maps of every rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from dm_utils.base.errors import ParameterError, check_range, shown
from dm_utils.chapters.beyond_linear.networks import Network, train, whitened
from dm_utils.maths.reduced_rank import MISSED, ByRank, ranked_map
from dm_utils.maths.regression import AffineMap
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Split, Sums
from dm_utils.world.models import resolve_device

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

ERROR, TWIN = "SaeError", "its Gaussian twin"
SHARES = (0.5, 0.9, 0.99)  # of the linear error, for which the least rank is asked
WIDEST, MOST = 65_536, 100


def check_sizes(hidden: Any, seeds: Any, max_epochs: Any) -> None:
    """Refuse sizes of networks that cannot be trained, before anything is loaded. Raises ParameterError."""
    if not isinstance(hidden, list) or not hidden or len(set(map(str, hidden))) < len(hidden):
        raise ParameterError(
            f"hidden = {shown(hidden)}: it must be a list of different whole numbers, such as [16, 64]"
        )
    for units in hidden:
        check_range("hidden", units, 1, WIDEST, whole=True)
    check_range("seeds", seeds, 1, MOST, whole=True)
    check_range("max_epochs", max_epochs, 1, MOST, whole=True)


@dataclass(frozen=True)
class Setting:
    """One SAE's error on one site, split by context, and the affine map of Eq. 11 that is the smallest predictor."""

    x: Float[Tensor, "token d"]
    error: Float[Tensor, "token d"]
    split: Split
    affine: AffineMap

    @cached_property
    def nonlinear(self) -> Float[Tensor, "token d"]:
        """NonlinearError(x) of every token (Eq. 15): what the affine map leaves."""
        return self.error - self.affine(self.x)

    @cached_property
    def whitened(self) -> Float[Tensor, "token direction"]:
        """x in uncorrelated coordinates of unit variance."""
        return whitened(self.x, self.split.fit)

    def twin(self, seed: int = 0) -> Float[Tensor, "token d"]:
        """Gaussian vectors with the mean and covariance of NonlinearError, drawn apart from x: nothing of them is predictable."""
        some = self.nonlinear[self.split.fit].double()
        values, vectors = torch.linalg.eigh(torch.cov(some.T, correction=0))
        drawn = torch.randn(self.x.shape, generator=torch.Generator().manual_seed(seed))
        return some.mean(0).float() + drawn @ (vectors * values.clamp_min(0).sqrt()).T.float()


def errors(study: Study, ref: SaeRef) -> Float[Tensor, "token d"]:
    """SaeError(x) of every kept token, in memory."""
    return torch.cat([(x - out).cpu() for _, x, out in study.reconstructions(ref)])


def setting(study: Study, ref: SaeRef) -> Setting:
    """The activations and errors of an SAE's site in memory, and the affine map fitted to them."""
    site = study.site(ref.layer, ref.component)
    error = errors(study, ref)
    affine = site.design.fit_map(lambda rows, x: error[rows].to(x.device))
    return Setting(site.x, error, site.split, affine)


# --- networks ----------------------------------------------------------------------------------------------


def judged(
    found: Setting, network: Network | None, left: Float[Tensor, "token d"], n_bootstrap: int, seed: int
) -> dict[str, Estimate]:
    """What an affine map and a network on top leave: `fvu_error` of the error, `fvu` of x, `left` of NonlinearError; and the `gain`.

    The argument `left` is what the affine map leaves of the target. The gain is the fall of the FVU of the error from the
    affine map's, with a paired interval.
    """
    sums, linear = HeldOutSums(found.split), found.affine(found.x)
    rest = left if network is None else left - network.prediction
    mean_x, mean_y = found.x[found.split.fit].mean(0), found.error[found.split.fit].mean(0)
    x, y = found.x - mean_x, linear + left - mean_y
    norms = {name: values.square().sum(1) for name, values in {"x2": x, "y2": y, "affine": left, "rest": rest}.items()}
    sums.add(slice(0, len(left)), x=x, y=y, **norms)
    resampled = Bootstrap(sums.totals, n_bootstrap, seed)
    return {
        "fvu_error": resampled.estimate(lambda s: s["rest"][:, 0] / _total(s, "y")),
        "fvu": resampled.estimate(lambda s: s["rest"][:, 0] / _total(s, "x")),
        "left": resampled.estimate(lambda s: (s["rest"] / s["affine"])[:, 0], "the affine map leaves nothing"),
        "gain": resampled.estimate(lambda s: (s["affine"] - s["rest"])[:, 0] / _total(s, "y")),
    }


def _total(sums: Sums, name: str) -> Float[Tensor, " draw"]:
    return sums[f"{name}2"][:, 0] - (sums[name] ** 2 / sums["n"]).sum(1)


def by_size(study: Study, ref: SaeRef, hidden: Sequence[int], seeds: int, max_epochs: int) -> pd.DataFrame:
    """Networks of every size and seed on NonlinearError, and one of each size on its Gaussian twin.

    Returns
    -------
    DataFrame
        `target` (ERROR or TWIN), `hidden` (0: the affine map of Eq. 11), `seed`, `n_parameters` beyond the affine map,
        `epochs`, `left_of_validation`, and `fvu_error`, `fvu`, `left`, `gain` with `_low` and `_high` on the held-out contexts.
    """
    wanted = [(ERROR, 0, 0), *product([ERROR], sorted(hidden), range(seeds)), (TWIN, 0, 0)]
    wanted += [(TWIN, units, 0) for units in sorted(hidden)]
    loaded: list[Setting] = []
    rows = []
    for target, units, seed in tqdm(wanted, desc="networks", unit="network", leave=False):
        key = study.result_key(ref) | {"target": target, "hidden": units, "seed": seed, "max_epochs": max_epochs}

        def compute(target: str = target, units: int = units, seed: int = seed) -> tuple[Any, None]:
            loaded.extend([] if loaded else [setting(study, ref)])
            return _one(study, loaded[0], target, units, seed, max_epochs), None

        kept = study.store.kept("beyond_linear", key, compute, sources=(__name__,))[0]
        estimates = {name: Estimate.from_plain(plain) for name, plain in kept["estimates"].items()}
        row = {"target": target, "hidden": units, "seed": seed} | kept["about"]
        rows.append(row | {column: v for name, e in estimates.items() for column, v in e.columns(name).items()})
    return pd.DataFrame(rows)


def _one(study: Study, found: Setting, target: str, hidden: int, seed: int, max_epochs: int) -> dict[str, Any]:
    p = study.profile
    left, network = found.nonlinear if target == ERROR else found.twin(p.seed), None
    about: dict[str, Any] = {"n_parameters": 0, "epochs": 0, "left_of_validation": 1.0}
    if hidden:
        network = train(
            found.whitened,
            left,
            found.split,
            hidden=hidden,
            seed=p.seed + seed,
            max_epochs=max_epochs,
            device=resolve_device(p.device),
        )
        about = {"n_parameters": network.n_parameters, "epochs": network.epochs, "left_of_validation": network.left}
    estimates = judged(found, network, left, p.n_bootstrap, p.seed)
    return {"about": about, "estimates": {name: value.plain() for name, value in estimates.items()}}


# --- ranks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """The linear error by rank: `curve` (one row per rank), `spectrum` (one per direction), and a few estimates by name."""

    curve: pd.DataFrame
    spectrum: pd.DataFrame
    estimates: dict[str, Estimate]


def by_rank(study: Study, ref: SaeRef) -> Ranks:
    """What the best linear map of each rank leaves of an SAE's error, and in which directions the SAE mostly fails.

    Returns
    -------
    Ranks
        `curve`: `rank`, `fvu` (of Sae(x) and that map, with `_low`, `_high`) and `recovered` (of the linear error).
        `spectrum`: `direction`, `share` (of the linear error's variance) and `unexplained` (with ends): the error's
        variance along it over that of x. `estimates`: `rank_for_50_percent` … , `missed_directions`, `missed_variance`.
    """

    def compute() -> tuple[Any, None]:
        site, p = study.site(ref.layer, ref.component), study.profile
        error = errors(study, ref)
        ranked = ranked_map(site.design, lambda rows, x: error[rows].to(x.device))
        judge = ByRank(site.design, lambda rows, x: error[rows].to(x.device), ranked, p.n_bootstrap, p.seed)
        return _tables(judge, ranked.variance), None

    kept = study.store.kept("linear_by_rank", study.result_key(ref), compute, sources=(__name__,))[0]
    estimates = {name: Estimate.from_plain(plain) for name, plain in kept["estimates"].items()}
    return Ranks(pd.DataFrame(kept["curve"]), pd.DataFrame(kept["spectrum"]), estimates)


def _tables(judge: ByRank, variance: Float[Tensor, " direction"]) -> dict[str, Any]:
    ranks = range(judge.n_directions + 1)
    curve = [
        {"rank": rank} | judge.left(rank, "x").columns("fvu") | judge.recovered(rank).columns("recovered")
        for rank in ranks
    ]
    share = (variance / variance.sum()).tolist()
    spectrum = [
        {"direction": i + 1, "share": share[i]} | judge.unexplained(i).columns("unexplained") for i in ranks[:-1]
    ]
    estimates = {f"rank_for_{100 * part:.0f}_percent": judge.rank_for(part).plain() for part in SHARES}
    estimates |= {"missed_directions": judge.missed_directions(MISSED).plain()}
    return {
        "curve": curve,
        "spectrum": spectrum,
        "estimates": estimates | {"missed_variance": judge.missed_variance(MISSED).plain()},
    }


def widths(table: pd.DataFrame) -> list[int]:
    """The sizes of the networks, smallest first, without the affine map."""
    sizes: Iterable[int] = table.loc[table["hidden"] > 0, "hidden"].unique()
    return sorted(int(units) for units in sizes)
