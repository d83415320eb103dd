"""What Appendix A says of this run: each claim with its verdict, and what was learned, from the tables alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from dm_utils.base.verdicts import above, higher, verdict, within
from dm_utils.base.words import interval, span
from dm_utils.chapters.A_more_predictions.baselines import ACTIVATION, EASY, PAPER_BASELINES, TOKEN
from dm_utils.engine.part_trends import Trend
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.tables import estimates

ABOUT_HALF = (0.4, 0.6)  # a cosine of "around 0.5"
ABOUT_A_TENTH = (0.85, 0.95)  # a norm ratio "about 10 % smaller"
SCALING_ONLY = 0.1  # shrinkage is not the story if rescaling takes less than this share of the R² of the error vector


def layers(numbers: Iterable[int]) -> str:
    """A list of layers, for example ``layers 4, 5``."""
    named = [str(number) for number in numbers]
    return f"layer{'s' if len(named) > 1 else ''} {', '.join(named)}" if named else "no layer"


# --- A.2, A.1: layers and shrinkage ----------------------------------------------------------------------------------


def by_layer(table: pd.DataFrame) -> str:
    """Where the error norm is predicted worst and best, and how much of the FVU is nonlinear there."""
    rows = table.assign(share=table["fvu_nonlinear"] / table["fvu"]).to_dict("records")
    worst, best = (pick(rows, key=lambda row: row["r2_error_norm"]) for pick in (min, max))
    least, most = (pick(rows, key=lambda row: row["share"]) for pick in (min, max))
    r2 = [interval(row["r2_error_norm"], row["r2_error_norm_low"], row["r2_error_norm_high"]) for row in (worst, best)]
    return (
        f"**In this run** the error's squared norm is predicted worst at layer {worst['layer']} (R² {r2[0]}) and best at layer "
        f"{best['layer']} ({r2[1]}). The nonlinear part makes up {least['share']:.0%} of the FVU at layer {least['layer']} and "
        f"{most['share']:.0%} at layer {most['layer']}."
    )


def grids(main: int, found: Sequence[int]) -> str:
    """Which other layers have SAEs enough for a map over width and L0."""
    if found:
        return f"Layers other than {main} with four SAEs or more: {', '.join(map(str, sorted(found)))}."
    return (
        f"No layer other than {main} has four SAEs or more in this profile, so the map over width and L0 exists at one layer "
        "only (Section 4), and that FVU_nonlinear falls with width *at other layers* is **untestable here**; the profile "
        "`gemma-2-2b` has such SAEs at layers 5 and 19."
    )


def falls_with_width(grids: Mapping[int, pd.DataFrame]) -> str:
    """FVU nonlinear falls with width at other layers: at each, from the narrowest to the widest SAE (the two of nearest L0), it
    falls by more than both intervals."""
    cases: list[bool | None] = []
    for grid in grids.values():
        narrow, wide = (grid[grid["d_sae"] == width] for width in (grid["d_sae"].min(), grid["d_sae"].max()))
        pairs = narrow.merge(wide, how="cross", suffixes=("_narrow", "_wide"))
        nearest = (pairs["l0_narrow"] / pairs["l0_wide"]).map(math.log).abs().argmin()
        a, b = divmod(int(nearest), len(wide))  # the cross product walks through `wide` first
        cases.append(
            higher(Estimate.read(narrow.iloc[a], "fvu_nonlinear"), Estimate.read(wide.iloc[b], "fvu_nonlinear"))
        )
    return verdict(cases)


def only_shrinkage_refuted(table: pd.DataFrame) -> str:
    """The linear error is not only shrinkage: at each layer rescaling takes less than `SCALING_ONLY` of the error vector's R²."""
    lost = (table["r2_error_vector"] - table["r2_error_vector_rescaled"]) / table["r2_error_vector"]
    return verdict((lost < SCALING_ONLY).tolist())


def shrinkage(table: pd.DataFrame) -> str:
    """How short reconstructions are, how short they would be unshrunk, and what rescaling takes off Eq. 11."""
    lost = table["r2_error_vector"] - table["r2_error_vector_rescaled"]
    return (
        f"**In this run** reconstructions are {span(1 - table['norm_ratio_total'], '.1f', ' %')} shorter than the activations "
        f"(in total norm); with the same error and no shrinkage they would be "
        f"{span(1 - table['norm_ratio_unshrunk'], '.1f', ' %')} shorter. The factor that fits best is "
        f"{span(table['best_scale'], '.3f')}, and rescaling by it takes {span(lost, '.4f')} off the R² of the error vector. That "
        f"the linear error is more than shrinkage: **{only_shrinkage_refuted(table)}**."
    )


# --- A.3: easy predictors --------------------------------------------------------------------------------------------


def beats_each_easy_one(predictors: pd.DataFrame) -> str:
    """The activation predicts the error norm better than each of the paper's four easy quantities: at each layer, the interval
    of its paired lead over the best of them lies above 0."""
    return verdict(above(lead, 0) for lead in estimates(leads(predictors), "lead_norm"))


def beats_all_easy_ones(predictors: pd.DataFrame) -> str:
    """… and better than everything easy together: at each layer, the interval of the paired gap lies above 0."""
    easy = predictors[predictors["predictor"] == EASY]
    return verdict(above(gap, 0) for gap in estimates(easy, "gap_norm"))


def leads(predictors: pd.DataFrame) -> pd.DataFrame:
    """The activation's rows, one per SAE, by layer."""
    return predictors[predictors["predictor"] == ACTIVATION].sort_values("layer")


def where_it_leads(predictors: pd.DataFrame) -> tuple[list[int], list[int]]:
    """The layers where the activation leads the best of the four, and those where it trails it (paired intervals without 0)."""
    rows = leads(predictors)
    ahead, behind = rows["lead_norm_low"] > 0, rows["lead_norm_high"] < 0
    return rows.loc[ahead, "layer"].tolist(), rows.loc[behind, "layer"].tolist()


def token_wins_early(predictors: pd.DataFrame) -> str:
    """Token identity wins early: it beats the activation (paired gap below 0) in some layers, and every one of them comes before
    every layer where the activation beats it."""
    rows = predictors[predictors["predictor"] == TOKEN].sort_values("layer")
    wins = rows.loc[rows["gap_norm_high"] < 0, "layer"].tolist()
    loses = rows.loc[rows["gap_norm_low"] > 0, "layer"].tolist()
    return verdict([bool(wins) and (not loses or max(wins) < min(loses))])


def easy_predictors(predictors: pd.DataFrame) -> str:
    """Fig. 13 in sentences: who predicts the error norm best, and where."""
    ahead, behind = where_it_leads(predictors)
    by = {name: rows.set_index("layer") for name, rows in predictors.groupby("predictor")}
    lead, token, easy = (by[name] for name in (ACTIVATION, TOKEN, EASY))
    beaten = easy.index[easy["gap_norm_low"] > 0]
    unseen = token["n_unseen"].iloc[0] / token["n_held_out"].iloc[0]
    return (
        f"**In this run** the activation predicts ‖SaeError(x)‖ better than each of the paper's four easy quantities "
        f"({', '.join(PAPER_BASELINES)}) at {layers(ahead)}, and worse than the best of them at {layers(behind)} (paired intervals "
        f"that exclude 0). Its lead in R² over the best of the four goes from {lead['lead_norm'].min():.3f} at layer "
        f"{lead['lead_norm'].idxmin()} to {lead['lead_norm'].max():.3f} at layer {lead['lead_norm'].idxmax()}. Token identity alone "
        f"reaches R² {token['r2_norm'].max():.2f} at layer {token['r2_norm'].idxmax()} and {token['r2_norm'].min():.2f} at layer "
        f"{token['r2_norm'].idxmin()}; everything easy together reaches {span(easy['r2_norm'])}, and the activation beats that at "
        f"{layers(beaten)}. Of the held-out tokens, {unseen:.1%} have an identity that no fitting token has."
    )


def overtakes(curve: pd.DataFrame) -> str:
    """From how many fitting tokens on the table of token means beats the activation, at every larger number tried."""
    sizes = curve.pivot(index="n_fit", columns="predictor", values="r2").sort_index(ascending=False)
    wins = (sizes[TOKEN] > sizes[ACTIVATION]).cummin()
    return (
        f"token identity wins from {min(wins.index[wins]):,} fitting tokens on"
        if wins.any()
        else "token identity never wins"
    )


def by_text(curve: pd.DataFrame) -> str:
    """How the contest between token identity and the activation depends on the number of fitting tokens."""
    by_size = curve.pivot(index="n_fit", columns="predictor", values="r2")
    per = curve.groupby("n_fit")["per_identity"].first()
    few, many = by_size.index.min(), by_size.index.max()
    token, x = (by_size[name].loc[[few, many]].tolist() for name in (TOKEN, ACTIVATION))
    return (
        f"**In this run** token identity goes from R² {token[0]:.2f} with {few:,} fitting tokens ({per[few]:.0f} per identity) to "
        f"{token[1]:.2f} with {many:,} ({per[many]:.0f} per identity); the activation from {x[0]:.2f} to {x[1]:.2f}; {overtakes(curve)}. "
        "The paper fits 150,000 tokens of a vocabulary of 256,000, so its table is far sparser than this one at its fullest: "
        "part of the activation's lead in Fig. 13 may be the size of the text."
    )


# --- A.4: single tokens ----------------------------------------------------------------------------------------------


def mostly_falls(trend: Trend) -> str:
    """A norm falls with width on most tokens: the interval of the share that falls lies above one half."""
    return verdict([above(trend.falls, 0.5)])


def mostly_steady(trend: Trend) -> str:
    """A norm mostly stays constant: the interval of the share of tokens within the tolerance lies above one half."""
    return verdict([above(trend.steady, 0.5)])


def no_trend(trend: Trend) -> str:
    """A norm does not change on the mean token: the interval of its mean change holds 0."""
    return verdict([trend.mean.low <= 0 <= trend.mean.high])


def single_tokens(trends: Mapping[str, Trend], tolerance: float) -> str:
    """How the two norms move with width on single tokens."""
    linear, nonlinear = trends["linear"], trends["nonlinear"]
    means = [f"{t.mean.value:+.2f} % [{t.mean.low:+.2f}, {t.mean.high:+.2f}]" for t in (linear, nonlinear)]
    return (
        f"**In this run** the linear norm changes by {means[0]} per doubling on the mean token and falls on "
        f"{linear.falls.value:.0%} of the tokens; the nonlinear norm changes by {means[1]} and falls on "
        f"{nonlinear.falls.value:.0%}. It stays within {tolerance:g} % per doubling on {nonlinear.steady.value:.0%} of the tokens, "
        f"the linear norm on {linear.steady.value:.0%}. Of the variance of the logarithm of the norm over tokens and widths, "
        f"{nonlinear.within:.1%} lies between the widths of one token for the nonlinear part and {linear.within:.1%} for the "
        "linear part."
    )


# --- all of it -------------------------------------------------------------------------------------------------------


def statements(
    table: pd.DataFrame, predictors: pd.DataFrame, trends: Mapping[str, Trend], grids: Mapping[int, pd.DataFrame]
) -> pd.DataFrame:
    """The claims of Appendix A, what this run found, and the verdict by the rules above."""
    ahead, behind = where_it_leads(predictors)
    linear, nonlinear = trends["linear"], trends["nonlinear"]
    ratio = verdict(within(e, *ABOUT_A_TENTH) for e in estimates(table, "norm_ratio"))
    cosine = verdict(within(e, *ABOUT_HALF) for e in estimates(table, "cos_linear_x"))
    contest = f"it leads at {layers(ahead)}, trails at {layers(behind)}"
    rows = [
        ("FVU nonlinear falls with width at other layers", f"{layers(grids)} can tell", falls_with_width(grids)),
        ("Reconstructions are about 10 % shorter than x", f"‖Sae(x)‖/‖x‖ {span(table['norm_ratio'])}", ratio),
        ("The cosine of LinearError with x is around 0.5", span(table["cos_linear_x"]), cosine),
        ("So the linear error is not only shrinkage", "R² after rescaling", only_shrinkage_refuted(table)),
        (
            "The activation predicts the error norm better than each easy quantity",
            contest,
            beats_each_easy_one(predictors),
        ),
        ("… than all of them together (our question)", "least squares on all", beats_all_easy_ones(predictors)),
        ("Token identity wins early (our question)", f"it trails at {layers(ahead)}", token_wins_early(predictors)),
        ("The linear norm falls with width on single tokens", f"on {linear.falls.value:.0%}", mostly_falls(linear)),
        ("The nonlinear norm mostly stays constant", f"on {nonlinear.steady.value:.0%}", mostly_steady(nonlinear)),
        ("… and has no trend on the mean token", f"{nonlinear.mean.value:+.1f} % per doubling", no_trend(nonlinear)),
    ]
    return pd.DataFrame(rows, columns=["The paper", "This run", "Verdict"])


def lessons(
    table: pd.DataFrame, predictors: pd.DataFrame, curve: pd.DataFrame, trends: Mapping[str, Trend], tolerance: float
) -> list[str]:
    """What was learned, as sentences; the main result first."""
    ahead, behind = where_it_leads(predictors)
    token = predictors[predictors["predictor"] == TOKEN].set_index("layer")["r2_norm"]
    x = leads(predictors).set_index("layer")["r2_norm"]
    nonlinear = trends["nonlinear"]
    return [
        f"**Which token it is says more than the activation** at {layers(behind)}: R² up to {token.max():.2f}, the activation's "
        f"{x.loc[x.index == token.idxmax()].iloc[0]:.2f} there. The activation leads at {layers(ahead)}. That token identity wins early: "
        f"**{token_wins_early(predictors)}**; that the activation beats each easy quantity, at every layer: "
        f"**{beats_each_easy_one(predictors)}**. Where the token wins, that x predicts the norm may "
        "mean no more than that x knows the token.",
        f"The contest depends on the amount of text: at one layer, {overtakes(curve)}. Compare the two at a stated number of "
        "fitting tokens.",
        f"The layer matters: the R² of the error norm is {span(table['r2_error_norm'])} over the layers, that of the error vector "
        f"{span(table['r2_error_vector'])}.",
        f"A shorter reconstruction is not a shrunken one: it lacks what it leaves unexplained. That the linear error is more than "
        f"shrinkage: **{only_shrinkage_refuted(table)}**.",
        f"On single tokens the nonlinear norm stays within {tolerance:g} % per doubling on {nonlinear.steady.value:.0%}: "
        f"**{mostly_steady(nonlinear)}** at that tolerance. But it falls on {nonlinear.falls.value:.0%} of them; that it has no "
        f"trend: **{no_trend(nonlinear)}**.",
    ]
