"""The shipped runs as tables: one row per method at one width and L0, and each method against TopK's curve over L0."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dm_utils.base.errors import ParameterError, check_range, require

BASELINE = "topk"
NEAR_L0 = 0.1  # a measured L0 within this of the wanted one is equal to it
METRICS = (
    "fvu",
    "fvu_nonlinear",
    "linear_share",
    "r2_error_norm",
    "r2_error_vector",
    "beyond_token_norm",
    "beyond_token_vector",
    "beyond_tokens_norm",
    "beyond_tokens_vector",
    "ce_recovered",
    "ce_sae",
    "kl",
    "fvu_pursued",
    "fvu_nonlinear_pursued",
    "rules",
    "rules_dealt",
)
PLAIN = ("l0", "dead_fraction", "train_seconds", "encode_flops", "tokens", "l0_wanted", "rules_tested")
SIZE = ["d_sae", "l0_wanted"]


def select(
    table: pd.DataFrame,
    methods: str | None = None,
    width: int | None = None,
    near_l0: float | None = None,
    seeds: int | None = None,
) -> pd.DataFrame:
    """The runs to show: of one width (the first run's unless given), methods separated by commas, the first `seeds` seeds.

    Column `headline`: the runs at the wanted L0 nearest to `near_l0` (the first run's unless given) at which methods other than TopK
    ran. TopK's runs at every L0 stay,
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
    others = rows[rows["method"].isin(set(chosen) - {BASELINE})]
    wanted = (others if len(others) else rows)["l0_wanted"].unique()
    nearest = wanted[np.abs(np.log(wanted / target)).argmin()]
    return rows.assign(headline=(rows["l0_wanted"] == nearest) & rows["method"].isin(chosen))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method at the headline's L0, in the order of FVU.

    Of each metric M the mean over seeds, its interval over text M_low and M_high, its scatter M_sd (NaN for one seed) and its extremes
    over seeds M_least and M_most. `seeds` counts them; `equal_l0`: the measured L0 is within `NEAR_L0` of the wanted one.
    """
    grouped = rows[rows["headline"]].groupby(["method", "title"], sort=False)
    ends = [f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")]
    over_seeds = grouped[[*METRICS, "l0", "dead_fraction", "train_seconds"]]
    parts = [grouped[[*ends, *PLAIN]].mean(), over_seeds.std().add_suffix("_sd"), grouped.size().rename("seeds")]
    parts += [over_seeds.min().add_suffix("_least"), over_seeds.max().add_suffix("_most")]
    found = pd.concat(parts, axis=1).copy()  # in one piece
    found = found.assign(equal_l0=(found["l0"] / found["l0_wanted"] - 1).abs() <= NEAR_L0)
    return found.reset_index().sort_values("fvu", ignore_index=True).copy()


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


def ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs with their FVU_nonlinear as a ratio to TopK's at equal FVU (`ratio`, over text `low` and `high`, FVU held), and at
    equal measured L0 (`nonlinear_at_l0`), and their FVU as a ratio to TopK's at equal L0 (`fvu_at_l0`)."""
    line = curve(rows)
    level, at_l0 = on_curve(line, rows["fvu"], "fvu_nonlinear"), on_curve(line, rows["l0"], "fvu_nonlinear", "l0")
    return rows.assign(
        ratio=rows["fvu_nonlinear"] / level,
        low=rows["fvu_nonlinear_low"] / level,
        high=rows["fvu_nonlinear_high"] / level,
        nonlinear_at_l0=rows["fvu_nonlinear"] / at_l0,
        fvu_at_l0=rows["fvu"] / on_curve(line, rows["l0"], "fvu", "l0"),
    )


def own_scatter(rows: pd.DataFrame) -> tuple[float, float]:
    """The least and the greatest ratio of TopK's own runs to their mean curve: what seeds alone do. NaN for a single seed."""
    topk = ratios(rows)[lambda run: run["method"] == BASELINE]
    repeated = topk[topk.groupby("l0_wanted")["seed"].transform("nunique") > 1]["ratio"]
    return float(repeated.min()), float(repeated.max())


def against_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Each other method's `ratios`, means over its seeds.

    `least` and `most` are the seeds' extremes of `ratio`, `own_least` and `own_most` those of TopK's own runs, `seeds` their number.
    """
    mine = ratios(rows)[lambda run: run["headline"] & (run["method"] != BASELINE)]
    grouped = mine.groupby(["method", "title"], sort=False)
    found = grouped[["ratio", "low", "high", "fvu_at_l0", "nonlinear_at_l0", "l0"]].mean()
    found = found.join(grouped["ratio"].agg(least="min", most="max")).join(grouped.size().rename("seeds"))
    least, most = own_scatter(rows)
    return found.assign(own_least=least, own_most=most).reset_index().sort_values("ratio", ignore_index=True)


def sizes(table: pd.DataFrame, methods: str | None = None, seeds: int | None = None) -> pd.DataFrame:
    """`against_curve` at every width and wanted L0 at which methods other than TopK ran, one below the other."""
    mine = table if methods is None else table[table["method"].isin({BASELINE, *map(str.strip, methods.split(","))})]
    found = []
    for width, l0 in mine.loc[mine["method"] != BASELINE, SIZE].drop_duplicates().itertuples(index=False):
        rows = select(mine, None, int(width), float(l0), seeds)
        found.append(against_curve(rows).assign(d_sae=int(width), l0_wanted=float(l0)))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def budgets(rows: pd.DataFrame, longer: pd.DataFrame) -> pd.DataFrame:
    """`ratios` of the first seed's runs at both budgets, each to TopK's curve at its own; what ran at one alone is left out.

    One row per method and budget, `longer` says which.
    """
    width, l0 = longer[["d_sae", "l0_wanted"]].iloc[0]
    usual = rows[(rows["seed"] == 0) & (rows["d_sae"] == width)]
    found = pd.concat([ratios(usual).assign(longer=False), ratios(longer).assign(longer=True)], ignore_index=True)
    found = found[(found["l0_wanted"] == l0) & found["method"].isin(longer["method"]) & (found["method"] != BASELINE)]
    columns = ["title", "method", "longer", "tokens", "fvu", "ratio", "low", "high"]
    return found[found.groupby("method")["ratio"].transform("count") == 2][columns].reset_index(drop=True)


def best_rates(rates: pd.DataFrame) -> pd.DataFrame:
    """Each method's best learning rate, the rates tried, and `at_end`: the best is the ladder's first or last."""
    best = rates[rates["best"]].set_index("method")
    tried = rates.groupby("method")["lr"]
    ends = (rates["lr"].min(), rates["lr"].max())
    listed = tried.apply(lambda values: ", ".join(f"{value:g}" for value in sorted(values)))
    return best.assign(tried=listed, at_end=best["lr"].isin(ends))[
        ["title", "lr", "fvu", "l0", "tried", "at_end"]
    ].reset_index()
