"""What Appendix D says of this run: each claim with its verdict, and what was learned, from the tables alone."""

from __future__ import annotations

import pandas as pd

from dm_utils.base.verdicts import verdict
from dm_utils.base.words import span
from dm_utils.chapters.D_random_data.experiment import CASES

PARABOLA = 0.1  # a curve is the parabola if its bend is within this of 1
FLAT = 0.1  # … and straight if its bend is below this
MOVES = 0.1  # a property acts if it moves the bend by more than this over its settings
NAMES = ("the concentration of variance on few latents", "the latents' directions", "firing together")


def is_parabola(bend: float) -> str:
    """Random vectors with equal frequencies give the parabola: the bend of their curve lies within `PARABOLA` of 1."""
    return verdict([abs(bend - 1) <= PARABOLA])


def acts(sweep: pd.DataFrame, named: str) -> bool:
    """A property acts if the bend moves by more than `MOVES` over its settings; `named` is how its name begins."""
    rows = sweep[sweep["property"].str.startswith(named)]
    return bool(rows["bend"].max() - rows["bend"].min() > MOVES)


def leverage(sweep: pd.DataFrame) -> str:
    """How far the bend is from one minus the mean leverage where features are masked singly."""
    singly = sweep[~sweep["property"].str.contains("whole")]
    gap = (singly["bend"] - (1 - singly["leverage"])).abs().max()
    return (
        f"Over the {len(singly)} settings that mask features singly at random, the bend differs from $1 - \\bar h$ by at most "
        f"{gap:.3f}, for one random mask order each."
    )


def properties(sweep: pd.DataFrame) -> list[str]:
    """Which property of random data straightens the line, from its sweep."""
    titles = {
        "sparsity": "Sparsity, at equal variances",
        "cosine within clusters, masking features": "Cosines, masking features one by one (their relatives remain)",
        "cosine within clusters, masking whole": "Cosines, masking whole clusters (kept and masked have directions apart)",
        "concentration": "Concentration of the variance (the few that carry it get a leverage near 1)",
        "features per dimension": "Features per dimension",
    }
    lines = []
    for named, title in titles.items():
        bends = sweep.loc[sweep["property"].str.startswith(named), "bend"]
        lines.append(f"**{title}**: {'acts' if acts(sweep, named) else 'no effect'}, bend {span(bends)}.")
    return lines


def at_random(bends: pd.DataFrame) -> list[float]:
    """The bend of each case of `experiment.CASES`, masked at random."""
    return bends[bends["order"] == "random"].set_index("case").loc[list(CASES), "bend"].tolist()


def falls(bends: pd.DataFrame) -> dict[str, float]:
    """By how much each ingredient of a real SAE lowers the bend, masked at random."""
    even, spread, directed, shuffled, real = at_random(bends)
    return dict(zip(NAMES, (even - spread, spread - directed, shuffled - real), strict=True))


def ingredients(bends: pd.DataFrame, n_alive: int, d: int, mean_leverage: float) -> str:
    """Which ingredient of a real SAE straightens the line most."""
    found, (_, _, directed, shuffled, _) = falls(bends), at_random(bends)
    steps = ", ".join(f"by {drop:+z.2f} with {name}" for name, drop in found.items())
    return (
        f"**In this run**, masking at random: the mean leverage of the {n_alive:,} latents is {mean_leverage:.2f} ($d/m$ = "
        f"{d / n_alive:.2f}), which predicts a bend of {1 - mean_leverage:.2f}; case 3 has {directed:.2f} and case 4 "
        f"{shuffled:.2f}. The bend falls {steps}: what straightens the line most is **{max(found, key=lambda k: found[k])}**."
    )


def top_of(curves: pd.DataFrame) -> str:
    """Where equal frequencies are explained least."""
    half = curves[(curves["order"] == "random") & (curves["case"] == curves["case"].iloc[0])]
    top = half.nlargest(1, "fvu_nonlinear").iloc[0]
    fvu = float(top["fvu"])
    return (
        f"The paper reports the shape only. Here, with equal frequencies, the least is explained at FVU = {fvu:.2f}, where FVU "
        f"nonlinear is {top['fvu_nonlinear']:.3f} (parabola: {fvu * (1 - fvu):.3f})."
    )


def statements(random_bend: float, sweep: pd.DataFrame, bends: pd.DataFrame) -> pd.DataFrame:
    """The claims of Appendix D, what this run found, and the verdict by the rules above. `random_bend` is that of equal
    frequencies masked at random."""
    real = at_random(bends)[-1]
    sparsity, cosines = (acts(sweep, named) for named in ("sparsity", "cosine within clusters, masking features"))
    whole = acts(sweep, "cosine within clusters, masking whole")
    rows = [
        ("FVU nonlinear of random vectors is a parabola", f"bend {random_bend:.2f}", is_parabola(random_bend)),
        ("The data must match an SAE's sparsity (its guess)", "acts" if sparsity else "no effect", verdict([sparsity])),
        (
            "… and its cosine similarities",
            f"singly: {'acts' if cosines else 'no effect'}; by clusters: {'acts' if whole else 'no effect'}",
            verdict([cosines, whole]),
        ),
        ("On an SAE's own latents the line is straight", f"bend {real:.2f}", verdict([real <= FLAT])),
    ]
    return pd.DataFrame(rows, columns=["The paper", "This run", "Verdict"])


def lessons(random_bend: float, sweep: pd.DataFrame, bends: pd.DataFrame) -> list[str]:
    """What was learned, as sentences."""
    found, real = falls(bends), at_random(bends)[-1]
    sparsity = acts(sweep, "sparsity")
    helpful = [name for name, drop in found.items() if drop > MOVES]
    return [
        "The parabola is exact linear algebra: a linear map cannot separate what shares its directions. "
        f"That random vectors give it: **{is_parabola(random_bend)}** (bend {random_bend:.2f}). Its height is one minus the mean "
        "leverage of the features.",
        "The paper's guess, by way of other work, was that sparsity and cosine similarity must be matched. Sparsity alone "
        f"{'moves' if sparsity else 'does not move'} the curve; cosines act through leverage. What straightens it here, by more "
        f"than {MOVES:g}: {' and '.join(helpful) or 'nothing'}.",
        f"Real latents bend, too: {real:.2f} of the parabola, masked at random. So $\\text{{FVU}}_{{\\text{{nonlinear}}}}$ contains "
        "absent features that a linear map cannot separate, and that part need not be constant in width.",
    ]
