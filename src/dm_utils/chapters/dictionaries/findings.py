"""What the comparison of methods says: verdicts by stated rules, from the tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dm_utils.base.verdicts import HOLDS, UNTESTABLE, verdict, within
from dm_utils.base.words import escape, how_many, span
from dm_utils.chapters.dictionaries.claims import apart, judge
from dm_utils.chapters.dictionaries.experiment import BASELINE
from dm_utils.chapters.dictionaries.views import prices
from dm_utils.maths.resampling import Estimate

Table = Any  # a pd.DataFrame: pandas' stubs know nothing of the columns that rows are read by
SAME = 0.05  # a method keeps TopK's FVU_nonlinear at equal FVU if their ratio is within this of 1
WHY = {
    "top_afa_own": "the norm of the activation sets it",
    "variational": "fewer of its means are positive than places are to be filled",
}
"""Why a method's L0 may not be the wanted one."""


def moved(row: Any) -> bool | None:
    """Whether a method's FVU_nonlinear differs from TopK's at equal FVU, over text and over seeds; None: it cannot be told.

    It differs if the ratio's interval over text lies outside 1 ± `SAME`, and every seed's ratio on the same side beyond every ratio of
    TopK's own seeds to TopK's curve. It is the same if the interval and all seeds lie inside 1 ± `SAME`. One seed tells nothing.
    """
    if row.seeds < 2:
        return None
    inside = within(Estimate(row.ratio, row.low, row.high), 1 - SAME, 1 + SAME)
    if inside:
        return False if within(Estimate(row.ratio, row.least, row.most), 1 - SAME, 1 + SAME) else None
    beyond = row.most < row.own_least if row.ratio < 1 else row.least > row.own_most
    return True if inside is False and beyond else None


def kind_sentence(against: Table) -> str:
    """Does any method change the kind of error, or only its size?"""
    if not len(against):
        return "No method but TopK has run yet, so nothing can be said."
    rows = list(against.itertuples())
    cases = [moved(row) for row in rows]
    lower = [r for r, case in zip(rows, cases, strict=True) if case and r.ratio < 1]
    upper = [r for r, case in zip(rows, cases, strict=True) if case and r.ratio > 1]
    same = [r for r, case in zip(rows, cases, strict=True) if case is False]
    unclear = [r for r, case in zip(rows, cases, strict=True) if case is None]
    said = [
        f"Of {len(rows)} methods, {listed(lower)} at equal FVU less of the nonlinear error than TopK",
        f"{listed(upper)} more",
    ]
    said.append(f"{titles(same)} as much, within {100 * SAME:.0f} %" if same else "none as much")
    if unclear:
        said.append(f"of {titles(unclear)} it cannot be told")
    return "; ".join(said) + f". That a method's nonlinear error is TopK's at equal FVU: **{stays(against)}**."


def titles(rows: list[Any]) -> str:
    """Names, separated by commas."""
    return ", ".join(escape(row.title) for row in rows)


def listed(rows: list[Any]) -> str:
    """Who leaves, and how much of TopK's."""
    if not rows:
        return "none leaves"
    names = ", ".join(f"{escape(row.title)} ({100 * row.ratio:.0f} % of it)" for row in rows)
    return f"{names} {'leaves' if len(rows) == 1 else 'leave'}"


def stays(against: Table) -> str:
    """The verdict on "FVU_nonlinear is what TopK's is at equal FVU": a case per method of which `moved` can tell."""
    cases = [moved(row) for row in against.itertuples()]
    return verdict(not case for case in cases if case is not None)


def gamed(methods: Table) -> list[Any]:
    """Methods whose FVU_nonlinear is lower than TopK's while their FVU is higher, over text and over seeds.

    Their error is larger, but more of it is linear in x: judged by FVU_nonlinear alone they would win.
    """
    by_name = methods.set_index("method")
    if BASELINE not in by_name.index:
        return []
    topk = by_name.loc[BASELINE]
    wins = [name for name in by_name.index if apart("fvu_nonlinear", by_name.loc[name], topk) is False]
    lost = {name for name in wins if apart("fvu", by_name.loc[name], topk)}
    return [row for row in methods.itertuples() if row.method in lost]


def gaming_sentence(methods: Table) -> str:
    """Where FVU_nonlinear alone misleads."""
    found = gamed(methods)
    if not found:
        return "No method here has a lower FVU nonlinear than TopK at the price of a higher FVU."
    names = ", ".join(
        f"{escape(r.title)} (FVU nonlinear {r.fvu_nonlinear:.3f}, FVU {r.fvu:.3f}, CE recovered {100 * r.ce_recovered:.0f} %)"
        for r in found
    )
    topk = next(row for row in methods.itertuples() if row.method == BASELINE)
    return (
        f"FVU nonlinear alone would put {names} before TopK ({topk.fvu_nonlinear:.3f}, {topk.fvu:.3f}, "
        f"{100 * topk.ce_recovered:.0f} %): what {'it leaves' if len(found) == 1 else 'they leave'} is larger, and more of it is linear in "
        "$x$. A linear map of $x$ takes that part back, but then it is no longer the dictionary that explains it."
    )


def rules_sentence(methods: Table) -> str:
    """How far token rules say when latents are active, and at equal L0 whose latents they say better or worse than TopK's."""
    by_name = methods[methods["equal_l0"]].set_index("method")
    if BASELINE not in by_name.index or pd.isna(by_name.loc[BASELINE, "rules"]):
        return "Token rules have not been tested here."
    topk, others = by_name.loc[BASELINE], by_name.drop(index=BASELINE)
    cases = {name: apart("rules", row, topk) for name, row in others.iterrows()}
    listed = {
        case: ", ".join(
            f"{escape(others.title[name])} ({others.rules[name]:.2f})" for name in cases if cases[name] is case
        )
        for case in (True, False, None)
    }
    words = {True: "better", False: "worse", None: "not told apart from TopK's"}
    said = "; ".join(f"{words[case]}: {names}" for case, names in listed.items() if names)
    told = span(by_name["rules_tested"], ".0f", " %")
    return (
        f"A rule about tokens tells when a latent of TopK is active with a balanced accuracy of **{Estimate.read(topk, 'rules')}**; "
        f"rules dealt to other latents, {Estimate.read(topk, 'rules_dealt')}. At equal L0, latents of other methods are said {said}. Only "
        f"latents active in enough windows are tested, {told} of those drawn. That a method's latents are no better said by token rules "
        f"than TopK's: **{verdict(not case for case in cases.values() if case is not None)}**."
    )


def side(row: Any) -> int | None:
    """Where a ratio lies over text: below 1 − `SAME` (−1), above 1 + `SAME` (1), between (0); None across a limit."""
    found = Estimate(row.ratio, row.low, row.high)
    if within(found, 1 - SAME, 1 + SAME):
        return 0
    below, over = within(found, -float("inf"), 1 - SAME), within(found, 1 + SAME, float("inf"))
    return -1 if below else 1 if over else None


def budget_sentence(budgets: Table, missing: Sequence[str] = ()) -> str:
    """Whether methods stay on their side of TopK's curve when all train on more tokens; `missing`: titles of those that did not."""
    if not len(budgets):
        return "No method has run with more tokens, so whether the budget matters is **untestable here**."
    tokens = budgets.groupby("longer")["tokens"].max()
    pairs = [
        (next(rows[~rows["longer"]].itertuples()), next(rows[rows["longer"]].itertuples()))
        for _, rows in budgets.groupby("method", sort=False)
    ]
    told = [(short, long) for short, long in pairs if None not in (side(short), side(long))]
    turned = [f"{escape(a.title)} ({a.ratio:.2f} → {b.ratio:.2f})" for a, b in told if side(a) != side(b)]
    untold = [long for short, long in pairs if None in (side(short), side(long))]
    said = f"With {tokens[True]:,} tokens in the place of {tokens[False]:,}, {len(told) - len(turned)} of the {len(told)} methods "
    said += "that can be told stay on their side"
    said += f"; not so {', '.join(turned)}" if turned else ""
    said += f"; across a limit at one budget: {titles(untold)}" if untold else ""
    said += f"; not run with so many: {', '.join(map(escape, missing))}" if missing else ""
    stay = verdict(side(a) == side(b) for a, b in told)
    return f"{said}. That the budget does not change who is on which side of TopK's curve: **{stay}**."


def curve_sentence(curve: Table) -> str:
    """Whether FVU_nonlinear falls as TopK gets better, along its own curve over L0."""
    if len(curve) < 3:
        return "TopK has run at too few L0s to say how its FVU nonlinear goes with FVU."
    peak, sparsest = curve.loc[curve["fvu_nonlinear"].idxmax()], curve.iloc[-1]
    if peak["fvu"] == sparsest["fvu"]:
        return f"Along TopK's own curve FVU nonlinear falls with FVU, from L0 {sparsest['l0']:.0f} to {curve.iloc[0]['l0']:.0f}."
    return (
        f"TopK shows it alone: its FVU nonlinear is highest at an L0 of {peak['l0']:.0f} ({peak['fvu_nonlinear']:.3f}) and *lower* at "
        f"{sparsest['l0']:.0f} ({sparsest['fvu_nonlinear']:.3f}), where its FVU is {sparsest['fvu']:.3f} in the place of {peak['fvu']:.3f}."
    )


def l0_sentence(methods: Table) -> str:
    """Who is not at the wanted L0, by name, and why."""
    off = [row for row in methods.itertuples() if not row.equal_l0]
    if not off:
        return "Every method has the wanted L0, within a tenth."
    names = "; ".join(f"{escape(r.title)}, L0 {r.l0:.1f}{': ' + WHY[r.method] if r.method in WHY else ''}" for r in off)
    return f"Not at the wanted L0, and so left out where methods are compared at equal L0: {names}."


def winner(methods: Table) -> str:
    """The lowest FVU, the lowest FVU_nonlinear and the most CE recovered at equal L0, and what the first costs."""
    comparable = methods[methods["equal_l0"]]
    if comparable.empty:
        return "No method has the wanted L0 yet."
    best = comparable.loc[comparable["fvu"].idxmin()]
    rivals = [
        escape(row["title"])
        for _, row in comparable.iterrows()
        if not apart("fvu", row, best) and row["method"] != best["method"]
    ]
    beside = f" (not told apart from it: {', '.join(rivals)})" if rivals else ""
    price, least = prices(methods).loc[best.name], comparable.loc[comparable["fvu_nonlinear"].idxmin(), "title"]
    most = comparable.loc[comparable["ce_recovered"].idxmax(), "title"]
    return (
        f"At equal L0, {escape(best['title'])} leaves the least FVU{beside}, at {price['training time, × TopK']:g} times TopK's "
        f"training time and {price['encode FLOPs, × TopK']:g} times its FLOPs to encode; {escape(least)} leaves the least FVU nonlinear, "
        f"{escape(most)} recovers most of the cross-entropy. Times are processor seconds of one machine that did other work, too."
    )


def afa_sentence(against: Table) -> str:
    """top-AFA as its paper has it sets its own L0, so it is held against TopK's FVU at that L0."""
    mine = against[against["method"] == "top_afa_own"]
    if mine.empty or pd.isna(mine["fvu_at_l0"].iloc[0]):
        return "top-AFA chooses its own L0, and TopK has not run near it here, so the two cannot be compared: **untestable here**."
    row = mine.iloc[0]
    return (
        f"top-AFA, left alone, ends at an L0 of {row['l0']:.1f}, {row['l0'] / against['l0'].median():.1f} times the others'; there it "
        f"leaves {row['fvu_at_l0']:.2f} times the FVU that TopK leaves at that L0 (interpolated)."
    )


def tuning_sentence(methods: Table) -> str:
    """What tuning the model through its SAE does to the error and to the loss."""
    by_name = methods.set_index("method")
    if not {"sae_tuning", BASELINE} <= set(by_name.index):
        return "SAE-Tuning has not run here."
    mine, topk = by_name.loc["sae_tuning"], by_name.loc[BASELINE]
    words = {True: "rises", False: "falls", None: "is not told apart"}
    said = [
        f"{name} {words[apart(metric, mine, topk)]} ({topk[metric]:.3f} → {mine[metric]:.3f})"
        for metric, name in (
            ("ce_sae", "cross-entropy through the SAE, in nats,"),
            ("fvu", "FVU"),
            ("fvu_nonlinear", "FVU nonlinear"),
        )
    ]
    return f"Tuning the model through TopK's frozen dictionary: {'; '.join(said)}."


def sizes_sentence(everywhere: Table, against: Table) -> str:
    """Whether methods that move at the headline stay on their side of TopK's curve at the other sizes."""
    kinds = [row for row in against.itertuples() if moved(row)]
    others = everywhere.dropna(subset="ratio") if len(everywhere) else everywhere
    tested = [(row, others[others["method"] == row.method]) for row in kinds] if len(others) else []
    tested = [(row, found) for row, found in tested if len(found) > 1]
    if not tested:
        return "No method that moves has run at a second size within TopK's curve."
    stay = [row for row, found in tested if bool(((found["ratio"] < 1) == (row.ratio < 1)).all())]
    turn = [row for row, _ in tested if row not in stay]
    said = [f"on their side of TopK's curve at every other size that ran: {titles(stay)}"] if stay else []
    said += [f"not at every one: {titles(turn)}"] if turn else []
    return f"Of those that move, {'; '.join(said)}."


def lessons(methods: Table, against: Table, everywhere: Table, budgets: Table) -> list[str]:
    """What was learned, as sentences."""
    found = judge(methods)
    holds = int((found["Verdict"] == HOLDS).sum())
    tested = int((found["Verdict"] != UNTESTABLE).sum())
    said = f"Of {len(found)} claims of the abstracts, {tested} can be judged here"
    said += f", and of these {how_many(holds, tested)} hold." if tested else "."
    kind = f"{kind_sentence(against)} {sizes_sentence(everywhere, against)}"
    ways = [
        gaming_sentence(methods),
        winner(methods),
        rules_sentence(methods),
        afa_sentence(against),
        tuning_sentence(methods),
    ]
    return [kind, budget_sentence(budgets), *ways, said]
