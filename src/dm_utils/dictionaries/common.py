"""What the methods' configurations share."""

from __future__ import annotations

from typing import Any


def shape(d_in: int, d_sae: int) -> dict[str, Any]:
    """The fields of every SAELens configuration here: float32 on the CPU, the decoder bias left in the input."""
    return {"d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": False}


def forget(state: dict[str, Any], *names: str) -> None:
    """Take off a state dict what only training needs."""
    for name in names:
        state.pop(name, None)
