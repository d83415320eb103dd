"""The shipped runs as tables: one row per method at one width and L0, and each method against TopK's curve over L0."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dm_utils.base.errors import ParameterError, check_range, require

BASELINE = "topk"
METRICS = (
    "fvu",
    "fvu_nonlinear",
    "linear_share",
    "r2_error_norm",
    "r2_error_vector",
    "ce_recovered",
    "kl",
    "fvu_pursued",
    "fvu_nonlinear_pursued",
)
PLAIN = ("l0", "dead_fraction", "train_seconds", "encode_flops", "tokens")


def select(
    table: pd.DataFrame,
    methods: str | None = None,
    width: int | None = None,
    near_l0: float | None = None,
    seeds: int | None = None,
) -> pd.DataFrame:
    """The runs to show: of one width (the first run's unless given), methods separated by commas, the first `seeds` seeds.

    Column `headline`: the runs at the wanted L0 nearest to `near_l0` (the first run's unless given). TopK's runs at every L0 stay,
    whatever `methods` says: they are what others are held against.

    Raises
    ------
    ParameterError : a method, a width or a number of seeds that there is not; says what there is.
    """
    first, there = table.iloc[0], list(dict.fromkeys(table["method"]))
    chosen = there if methods is None else [name.strip() for name in str(methods).split(",")]
    for name in chosen:
        require(name, there, "entry of methods")
    width = int(first["d_sae"]) if width is None else width
    widths = sorted(table["d_sae"].unique().tolist())
    if width not in widths:
        raise ParameterError(f"width = {width}: the shipped dictionaries have {', '.join(map(str, widths))} latents")
    check_range("seeds", 1 if seeds is None else seeds, 1, whole=True)
    rows = table[(table["d_sae"] == width) & (table["seed"] < (np.inf if seeds is None else seeds))]
    rows = rows[rows["method"].isin({BASELINE, *chosen})]
    target = float(first["l0_wanted"]) if near_l0 is None else near_l0
    check_range("near_l0", target, 0.1)
    wanted = rows["l0_wanted"].unique()
    nearest = wanted[np.abs(np.log(wanted / target)).argmin()]
    return rows.assign(headline=(rows["l0_wanted"] == nearest) & rows["method"].isin(chosen))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method at the headline's L0, means over seeds: M, its interval over text M_low, M_high, its scatter M_sd.

    `seeds` counts them; a scatter of one seed is NaN. Methods stand in the order of their FVU.
    """
    grouped = rows[rows["headline"]].groupby(["method", "title"], sort=False)
    ends = [f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")]
    means = grouped[[*ends, *PLAIN]].mean()
    scatter = grouped[[*METRICS, "l0", "dead_fraction"]].std().add_suffix("_sd")
    found = means.join(scatter).join(grouped.size().rename("seeds"))
    return found.reset_index().sort_values("fvu", ignore_index=True)


def curve(rows: pd.DataFrame) -> pd.DataFrame:
    """TopK over L0, means over seeds, in the order of FVU: what a change of sparsity alone does."""
    columns = ["l0", "fvu", "fvu_nonlinear", "ce_recovered"]
    topk = rows[rows["method"] == BASELINE].groupby("l0_wanted")[columns].mean()
    return topk.sort_values("fvu").reset_index()


def on_curve(curve: pd.DataFrame, x: pd.Series, metric: str, along: str = "fvu") -> np.ndarray:
    """TopK's metric at other values of `along`, by straight lines between the logarithms; NaN beyond its ends."""
    ordered = curve.sort_values(along)
    known, values = np.log(ordered[along].to_numpy()), np.log(ordered[metric].to_numpy())
    return np.exp(np.interp(np.log(x.to_numpy(float)), known, values, left=np.nan, right=np.nan))


def against_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Each other method's FVU_nonlinear as a ratio to TopK's at equal FVU: `ratio`, and its ends `low`, `high`.

    Ends are the interval over text, FVU held, or the seeds' extremes where they lie further out. Column `ratio_l0`: FVU over TopK's at
    equal measured L0.
    """
    mine, line = rows[rows["headline"] & (rows["method"] != BASELINE)], curve(rows)
    level = on_curve(line, mine["fvu"], "fvu_nonlinear")
    ends = {f"r{end}": mine[f"fvu_nonlinear{end}"] / level for end in ("", "_low", "_high")}
    ends["at_l0"] = mine["fvu"] / on_curve(line, mine["l0"], "fvu", "l0")
    grouped = mine.assign(**ends).groupby(["method", "title"], sort=False)
    return pd.DataFrame(
        {
            "ratio": grouped["r"].mean(),
            "low": grouped[["r_low", "r"]].mean()["r_low"].combine(grouped["r"].min(), np.fmin),
            "high": grouped["r_high"].mean().combine(grouped["r"].max(), np.fmax),
            "ratio_l0": grouped["at_l0"].mean(),
        }
    ).reset_index()
