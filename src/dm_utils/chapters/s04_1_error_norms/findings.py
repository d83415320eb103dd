"""What Section 4.1's tables say: sentences, and a verdict on each of its claims."""

from __future__ import annotations

import pandas as pd

from dm_utils.base.verdicts import Interval, above, higher, verdict, within
from dm_utils.base.words import how_many, span
from dm_utils.engine.suite import steps
from dm_utils.engine.token_identity import BEYOND, TOKEN, TOKENS, X
from dm_utils.maths.resampling import Estimate
from dm_utils.maths.tables import estimates

R2, IDENTITY = "r2_error_norm", "r2_token_identity"


def over_the_suite(main: pd.DataFrame) -> str:
    """How R² of the error norm runs over width and L0."""
    ordered = main.sort_values(R2)
    low, high = ordered.iloc[0], ordered.iloc[-1]
    wider, denser = steps(main, R2, "d_sae", "near_l0"), steps(main, R2, "near_l0", "d_sae")
    x_norm = Estimate.read(main.iloc[0], "r2_x_norm")
    return (
        f"Over {len(main)} {main['architecture'].iloc[0]} SAEs, $R^2$ runs from {low[R2]:.2f} (width {low.d_sae:,}, $L_0$ "
        f"{low.l0:.0f}) to {high[R2]:.2f} (width {high.d_sae:,}, $L_0$ {high.l0:.0f}). From one width to the next at equal "
        f"$L_0$ it {wider}; from one $L_0$ to the next at equal width it {denser}. For comparison, the same probe predicts "
        f"the squared norm of $\\mathbf{{x}}$ itself with $R^2$ = {x_norm}."
    )


def middle(by_layer: pd.DataFrame, n_layers: int) -> pd.Series:
    """Which rows are of the middle half of the layers."""
    return by_layer["layer"].between(0.25 * (n_layers - 1), 0.75 * (n_layers - 1))


def split_effect(both: pd.DataFrame) -> str:
    """What changes when tokens instead of contexts are split, beside the intervals."""
    r2 = both.pivot(index="sae_id", columns="split", values=R2)
    gap = r2["token"] - r2["context"]
    size = (both[f"{R2}_high"] - both[f"{R2}_low"]).groupby(both["split"]).mean()
    return (
        f"Splitting by token instead of by context changes $R^2$ by {gap.min():+.3f} to {gap.max():+.3f} here, beside "
        f"intervals that are {size['token']:.3f} wide (by token) and {size['context']:.3f} wide (by context: fewer contexts "
        "are held out)."
    )


def claims(
    table: pd.DataFrame, main: pd.DataFrame, by_layer: pd.DataFrame, n_layers: int, every: Interval, plateau: Interval
) -> pd.DataFrame:
    """A verdict on each claim of Section 4.1; `every` and `plateau` are the ranges that the paper reports.

    A case is one SAE (its interval inside the range), one step between neighbours (intervals apart), or one pair of layers
    (intervals apart); the words are those of `base.verdicts`.
    """
    saes = estimates(pd.concat([table, by_layer]).drop_duplicates("sae_id"), R2)
    layers = by_layer.sort_values("layer")
    r2 = estimates(layers, R2)
    first, last = r2[0], r2[-1]
    inside = [value for value, chosen in zip(r2, middle(layers, n_layers), strict=True) if chosen]
    between = span(r.value for r in inside) if inside else "no SAE"
    identity = estimates(layers, IDENTITY)
    wider, denser = steps(main, R2, "d_sae", "near_l0"), steps(main, R2, "near_l0", "d_sae")
    ahead = [higher(x, token) for x, token in zip(r2, identity, strict=True)]
    rows = [
        (
            f"R² is {every.low:g} to {every.high:g}, for every width, L0 and layer",
            f"{span(r.value for r in saes)} over {len(saes)} SAEs",
            verdict(within(value, every.low, every.high) for value in saes),
        ),
        ("Wider SAEs are less predictable", str(wider), wider.falling),
        ("Sparser SAEs are less predictable", f"R² {denser} towards a higher L0", denser.rising),
        (
            "Fig. 3: low in the first layers",
            f"{first} in the first; {between} in the middle half",
            verdict(higher(value, first) for value in inside),
        ),
        (
            f"Fig. 3: a plateau at {plateau.low:g} to {plateau.high:g}",
            f"{between} in the middle half",
            verdict(within(value, plateau.low, plateau.high) for value in inside),
        ),
        (
            "Fig. 3: a steep drop in the last layers",
            f"{last} in the last; {between} in the middle half",
            verdict(higher(value, last) for value in inside),
        ),
        (
            "The activation does much better than token identity (App. A)",
            f"better at {ahead.count(True)} of {len(ahead)} layers, worse at {ahead.count(False)}",
            verdict(ahead),
        ),
    ]
    return pd.DataFrame(rows, columns=["The paper, on Gemma 2 and Llama", "This run", "Verdict"])


def identity_wins(by_layer: pd.DataFrame) -> str:
    """At which layers a table of token identities predicts the error norm better than the activation does."""
    rows = list(zip(by_layer["layer"], estimates(by_layer, IDENTITY), estimates(by_layer, R2), strict=True))
    wins = sorted(layer for layer, token, x in rows if higher(token, x))
    if not wins:
        return "At no layer does a table with one number per token of the vocabulary do better than the probe."
    layer, token, x = max(rows, key=lambda row: row[1].value - row[2].value)
    return (
        f"At {layers_in_words(wins)} a table with one number per token of the vocabulary does better than the probe, "
        f"most of all at layer {layer} ($R^2$ = {token} against {x}): most of what makes an error large or small there goes with "
        "*which token* it is."
    )


def beyond_tokens(table: pd.DataFrame) -> str:
    """What the activation adds to the token's mean, and to that of three tokens, over the layers; rows of `token_table`."""
    by = {name: some.sort_values("layer") for name, some in table.groupby("predictor")}
    said = []
    for name, words in ((TOKEN, "the mean of the token"), (TOKENS, "means over the token and the two before it")):
        alone, both = by[name], by[BEYOND[name]]
        adds = [above(value, 0) for value in estimates(both, "beyond_norm")].count(True)
        pairs = zip(alone["layer"], estimates(alone, "r2_norm"), estimates(by[X], "r2_norm"), strict=True)
        wins = sorted(layer for layer, mean, x in pairs if higher(mean, x))
        ahead = f"at {layers_in_words(wins)}" if wins else "at no layer"
        said.append(
            f"Of the squared error norm, {words} explain{'s' * (name == TOKEN)} $R^2$ = {span(alone['r2_norm'])} over "
            f"{len(alone)} layers, {ahead} more than the activation. Of what is left then, the activation explains "
            f"{span(both['beyond_norm'])}, more than nothing at {how_many(adds, len(both))} of the layers."
        )
    return "\n\n".join(said)


def layers_in_words(layers: list[int]) -> str:
    """Layers as a phrase."""
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}"


def learned(main: pd.DataFrame, every: Interval) -> str:
    """What the probe explains at one layer, and how that compares with the paper's range and with the norm of x."""
    r2, ceiling = main[R2], main["r2_x_norm"].iloc[0]
    inside = [within(value, every.low, every.high) for value in estimates(main, R2)].count(True)
    above = sum(higher(value, Estimate.read(main.iloc[0], "r2_x_norm")) is True for value in estimates(main, R2))
    return (
        f"A linear probe of the activation explains {100 * r2.min():.0f} to {100 * r2.max():.0f} % of the variance of the "
        f"squared error norm over the {len(main)} SAEs of layer {main['layer'].iloc[0]}: to that extent, how badly an SAE does "
        f"on a token can be read off the token's activation. {inside} of them lie, interval and all, in the paper's range of "
        f"{100 * every.low:.0f} to {100 * every.high:.0f} %. {above} of the {len(main)} error norms are more predictable than "
        f"the norm of $\\mathbf{{x}}$ itself ($R^2$ = {ceiling:.2f}), which the paper finds almost perfectly predictable "
        "(Section 5.1 takes this up)."
    )


def early_tokens(ratio: Estimate, early: int) -> str:
    """Whether the first tokens of a context are easier to reconstruct, from the ratio of their FVU to that of the others."""
    harder = above(ratio, 1)
    words = {True: "harder to reconstruct than", False: "easier to reconstruct than", None: "not told apart from"}
    return f"Tokens before position {early} are {words[harder]} the later ones: their FVU is {ratio} times as large."
