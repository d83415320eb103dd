"""The learning rate of each method: the best of a ladder, by the FVU that a short training leaves at the wanted L0."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from dm_utils.base.files import write_atomic
from dm_utils.chapters.dictionaries import gradients
from dm_utils.chapters.dictionaries.saving import CALIBRATION_TOKENS, save_at_l0
from dm_utils.dictionaries.methods import METHODS, Method
from dm_utils.dictionaries.training import Activations, Plan, fit
from dm_utils.lab import work as lab_work

LADDER = (1e-3, 2.5e-3, 6.3e-3, 1.6e-2, 4e-2)


def plan_of(batch: int, steps: int) -> Plan:
    """A training of so many steps: what depends on their number is a share of it."""
    return Plan(
        steps=steps,
        batch=batch,
        warm_up=max(1, steps // 25),
        dead_after=max(10, steps * 3 // 20),
        revive_every=max(5, steps // 20),
    )


def walk(rates: Sequence[float], score: Callable[[float], float]) -> dict[float, float]:
    """The scores of a ladder's middle rate, its neighbours, and further towards the lowest until it has both neighbours or ends."""
    tried: dict[int, float] = {}
    best = len(rates) // 2
    while True:
        for i in range(max(best - 1, 0), min(best + 2, len(rates))):
            if i not in tried:
                tried[i] = score(rates[i])
        lowest = min(tried, key=lambda i: tried[i])
        if lowest == best:
            return {rates[i]: tried[i] for i in sorted(tried)}
        best = lowest


def tuned(work: Path, layer: int, method: Method, width: int, l0: int, plan: Plan) -> dict[str, Any]:
    """The rates that were tried for a method and what each left; kept in the work folder.

    `tried`: rate → (FVU, L0), on calibration tokens that did not set the L0; FVU is infinite where the training broke off.
    """
    identity = {"width": width, "l0": l0, "layer": layer, "plan": asdict(plan), "ladder": list(LADDER)}
    identity = json.loads(json.dumps(identity | {"text": lab_work.identity(work)}))
    file = work / "rates" / f"{method.name}.json"
    if file.exists() and (found := json.loads(file.read_text()))["identity"] == identity:
        return found
    training = (
        gradients.with_gradients(work, layer)
        if method.gradients
        else Activations(lab_work.load(work, "training", layer))
    )
    held = lab_work.load(work, "calibration", layer)[: 2 * CALIBRATION_TOKENS].float()
    l0s: dict[float, float] = {}

    def score(rate: float) -> float:
        fvu, l0s[rate] = tried(method, training, held, replace(plan, lr=rate), width, l0)
        tqdm.write(f"{method.title}, rate {rate:g}: FVU {fvu:.4f}, L0 {l0s[rate]:.2f}")
        return fvu

    scores = walk(LADDER, score)
    found = {
        "identity": identity,
        "method": method.name,
        "tried": [[rate, fvu, l0s[rate]] for rate, fvu in scores.items()],
        "best": min(scores, key=lambda rate: scores[rate]),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(found, indent=1).encode())
    return found


def tried(
    method: Method, training: Activations, held: torch.Tensor, plan: Plan, width: int, l0: int
) -> tuple[float, float]:
    """FVU and L0 of a short training, on the second half of `held`; the first half sets the L0."""
    torch.manual_seed(plan.seed)
    sae: Any = method.new(held.shape[1], width, l0)
    try:
        fit(sae, training, plan, None, method.revive)
    except FloatingPointError:
        return math.inf, math.nan
    with tempfile.TemporaryDirectory() as folder:
        saved, _ = save_at_l0(sae, Path(folder), held[: len(held) // 2], None if method.own_l0 else l0)
    x = held[len(held) // 2 :]
    with torch.no_grad():
        codes = saved.encode(x)
        left = float((x - saved.decode(codes)).square().sum() / (x - x.mean(0)).square().sum())
    return left, float((codes != 0).sum(1).float().mean())


def rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per method and rate: `fvu`, `l0`, and whether it is the method's `best`."""
    return [
        {
            "method": one["method"],
            "title": METHODS[one["method"]].title,
            "lr": rate,
            "fvu": fvu,
            "l0": l0,
            "best": rate == one["best"],
        }
        for one in found
        for rate, fvu, l0 in one["tried"]
    ]
