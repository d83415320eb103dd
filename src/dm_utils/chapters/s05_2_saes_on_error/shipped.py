"""The training runs that the book ships: found by recipe, used only if the code that trained them is today's.

Training takes about an hour, so the runs of the lab's SAE come with the book. Each says which code trained it. After a change of that
code they are trained again, unless somebody shows that nothing changed:

    python -m dm_utils.chapters.s05_2_saes_on_error.shipped train     # train what is not current, and ship it
    python -m dm_utils.chapters.s05_2_saes_on_error.shipped restamp   # train one run; if it is bit-identical, mark all as current
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import typer

from dm_utils.chapters.s05_2_saes_on_error.choice import most_equal
from dm_utils.chapters.s05_2_saes_on_error.runs import ErrorSaeRuns
from dm_utils.chapters.s05_2_saes_on_error.training import TARGETS
from dm_utils.engine.sources import recipe_digest
from dm_utils.engine.store import Arrays, CorruptEntryError, Store
from dm_utils.engine.study import Study
from dm_utils.lab import weights_path

log = logging.getLogger("dm_utils")
SHIPPED = weights_path().with_name("results")
COMMAND = f"python -m {__package__}.shipped"
CHAPTER = tuple(f"{__package__}.{name}" for name in ("plan", "runs", "streams", "training"))
RECIPE = (*CHAPTER, "dm_utils.dictionaries.sparse_topk")  # the modules whose code determines the trained weights
MINUTES_PER_RUN = 3  # on two cores


def recipe_source() -> str:
    """The digest of the code that determines trained weights; docstrings and comments do not count."""
    return recipe_digest(RECIPE)


class ShippedRuns(ErrorSaeRuns):
    """Training runs that look among the shipped ones before they train.

    `shipped` is where; the book's own by default. The other parameters are those of `ErrorSaeRuns`.
    """

    def __init__(self, *given: Any, shipped: Store | None = None, **options: Any):
        super().__init__(*given, **options)
        self.shipped = shipped or Store(SHIPPED)
        self._told = False

    def _kept(self, kind: str, recipe: dict[str, Any], compute: Any) -> tuple[Any, Arrays]:
        return self.from_shipped(kind, recipe) or super()._kept(kind, recipe, compute)

    def from_shipped(self, kind: str, recipe: dict[str, Any]) -> tuple[Any, Arrays] | None:
        """A shipped entry, unless it is damaged, was trained by other code, or on contexts that this study measures on."""
        try:
            found = self.shipped.load(kind, recipe)
        except CorruptEntryError as error:
            log.warning("%s. It is recomputed.", error)
            return None
        if found is None or self.study.profile.n_contexts > found[0]["first_context"]:
            return None
        if found[0].get("source") != recipe_source():
            self._say_that_it_is_stale()
            return None
        return found

    def _say_that_it_is_stale(self) -> None:
        if not self._told:
            n = len(TARGETS) * (self.plan.n_seeds + 2)  # each target's best rate has at least two neighbours
            log.warning(
                "The shipped SAEs of Section 5.2 were trained by other code than this (%s). At least %d runs are trained again, about "
                "%d minutes on two cores. If the change alters nothing, `%s restamp` says so once and for all.",
                ", ".join(name.rpartition(".")[2] for name in RECIPE),
                n,
                n * MINUTES_PER_RUN,
                COMMAND,
            )
        self._told = True


def precompute(runs: ErrorSaeRuns, store: Store) -> None:
    """Train every run that `store` lacks and write it there, with the grid that chose its learning rate."""
    source = {"source": recipe_source()}
    for target in TARGETS:
        grid = [list(pair) for pair in runs.tuning(target).items()]
        store.save("error_sae_lr", runs.recipe(target), {"grid": grid, **runs.trained_on, **source})
    for target, seed in runs.runs():
        data, arrays = runs.run(target, seed)
        store.save("error_sae", runs.recipe(target, lr=data["lr"], seed=seed), {**data, **source}, arrays)


def restamp(runs: ErrorSaeRuns, store: Store, trust: bool = False) -> int:
    """Mark every shipped run as trained by today's code; how many entries that are.

    Trains the first run anew and refuses where it is not bit-identical, unless `trust` says that nothing changed: another processor
    rounds otherwise, so there no run can show it.

    Raises
    ------
    ValueError
        If an entry is missing, or the run differs.
    """
    found = [_shipped_entry(store, "error_sae_lr", runs.recipe(target)) for target in TARGETS]
    rates = {
        target: min(data["grid"], key=lambda pair: pair[1])[0]
        for target, (_, data, _) in zip(TARGETS, found, strict=True)
    }
    for target, seed in runs.runs():
        found.append(_shipped_entry(store, "error_sae", runs.recipe(target, lr=rates[target], seed=seed)))
    if not trust:
        _check_identical(runs.train_run(TARGETS[0], rates[TARGETS[0]], 0)[1], found[len(TARGETS)][2])
    for recipe, data, arrays in found:
        kind = "error_sae" if arrays else "error_sae_lr"
        store.save(kind, recipe, {**data, "source": recipe_source()}, arrays or None)
    return len(found)


def _shipped_entry(store: Store, kind: str, recipe: dict[str, Any]) -> tuple[dict[str, Any], Any, Arrays]:
    entry = store.load(kind, recipe)
    if entry is None:
        raise ValueError(
            f"{store.root} has no {kind} for {recipe['target']} by this recipe: ship it with `{COMMAND} train`"
        )
    return recipe, *entry


def _check_identical(trained: Arrays, shipped: Arrays) -> None:
    differ = [name for name in sorted(shipped) if not np.array_equal(trained[name], shipped[name])]
    if differ:
        raise ValueError(
            f"a run trained now differs from the shipped one in {', '.join(differ)}: either the change alters the weights (then "
            f"`{COMMAND} train`), or this processor rounds otherwise (then, if you are sure, `{COMMAND} restamp --trust`)"
        )


app = typer.Typer(add_completion=False, help="Train or re-stamp the runs that Section 5.2 ships.")


@app.command("train")
def _train() -> None:
    """Train every run that is missing or not current, and ship it (about an hour on two cores)."""
    study = Study("lab")
    precompute(ShippedRuns(study, most_equal(study)), Store(SHIPPED))


@app.command("restamp")
def _restamp(trust: bool = typer.Option(False, help="Skip the proof by a run trained now.")) -> None:
    """Mark the shipped runs as current, after one run trained now was bit-identical (some minutes)."""
    study = Study("lab")
    print(f"{restamp(ErrorSaeRuns(study, most_equal(study)), Store(SHIPPED), trust)} entries are current")


if __name__ == "__main__":
    app()
