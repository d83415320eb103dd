"""What Section 3's cells say: how many latents are active, and how far the equations agree with the library."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dm_utils.base.words import code

ROUNDING = 1e-5  # of ‖x‖: sums of the same float32 numbers in another order stay closer than this


def active_latents(table: pd.DataFrame, active: Mapping[str, np.ndarray], k: int | None) -> str:
    """L0, measured and on its label, and its spread over tokens; `active` [token] by architecture, `k` of the TopK SAE."""
    said = []
    for row in table.to_dict("records"):
        numbers = active[row["architecture"]]
        said.append(
            f"**{row['architecture']}** {code(row['sae_id'])}: $L_0$ = {row['l0']:.2f} measured, {row['l0_label']:g} on its label; "
            f"{int(numbers.min())} to {int(numbers.max())} active latents per token, standard deviation {numbers.std():.1f}."
        )
    if k is not None:
        short = 100 * (active["topk"] < k).mean()
        said.append(f"Tokens on which fewer than $k$ latents of the TopK SAE are positive: {short:.2f} %.")
    return "\n\n".join(said)


def learned(table: pd.DataFrame, worst: float, norm: float, width: int) -> str:
    """Whether the equations agree with the library to rounding (`worst` difference, `norm` of x), and what is left over."""
    left = ", ".join(f"{100 * row['fvu']:.1f} % ({row['architecture']})" for row in table.to_dict("records"))
    words = "agree with SAELens to rounding" if worst <= ROUNDING * norm else "differ from SAELens"
    return (
        f"Written out by hand, Eqs. 1 to 9 {words}: the largest difference on this token is {worst:.1e}, where "
        f"$\\|\\mathbf{{x}}\\|$ is {norm:.0f}. What is left over: at width {width:,} the SAEs leave {left} of the variance of "
        "the held-out tokens unexplained."
    )


def in_scale(vectors: pd.DataFrame) -> str:
    """One activation and its parts in numbers, from the rows of `to_scale.angles`."""
    row = vectors.set_index("vector").astype(float).to_dict("index")
    share = {name: each["norm / ‖x‖"] for name, each in row.items()}
    return (
        f"On this token $\\text{{Sae}}(\\mathbf{{x}})$ has {100 * share['Sae(x)']:.0f} % of the length of $\\mathbf{{x}}$ and lies "
        f"{row['Sae(x)']['angle with x, °']:.0f}° from it. The error has {100 * share['SaeError']:.0f} % of that length: "
        f"LinearError {100 * share['LinearError']:.0f} %, NonlinearError {100 * share['NonlinearError']:.0f} %, at "
        f"{row['LinearError']['angle with NonlinearError, °']:.0f}° to each other. Over all tokens they are uncorrelated with "
        "each other, on a single one they need not be at a right angle."
    )
