"""The training runs of Section 5.2 for one SAE of a study: what trains on what, and what is kept.

Three kinds of text, none shared: contexts beyond the study's train; the study's fitting tokens judge convergence, choose learning
rates and give the twins their moments; its held-out tokens give every reported number.  Runs are kept one by one, so an interrupted
experiment goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sae_lens import TopKSAE

from dm_utils.base.files import content_key
from dm_utils.chapters.s05_2_saes_on_error.plan import TrainingPlan
from dm_utils.chapters.s05_2_saes_on_error.streams import (
    ErrorStream,
    GaussianStream,
    HeldStream,
    MeanCovariance,
    Part,
    Stream,
    moments,
)
from dm_utils.chapters.s05_2_saes_on_error.training import TARGETS, inference_sae, train
from dm_utils.engine.store import Arrays
from dm_utils.engine.study import Study
from dm_utils.world import corpus, models
from dm_utils.world.sae_ref import SaeRef

ROLES = ("train", "validation", "test")
HELD_BYTES = 2**29  # error vectors of at most this size are computed once and held in memory while SAEs train on them


class ErrorSaeRuns:
    """Streams of the error's parts and of their Gaussian twins, and the SAEs trained on them.

    Parameters
    ----------
    study : Study
        Fits LinearError and holds the text that measures.
    ref : SaeRef, optional
        Whose error; the study's own SAE by default.
    plan : TrainingPlan
    train_contexts : int
        Contexts of the same text, after the study's, that train.

    Raises
    ------
    ValueError
        If the text has too few contexts.
    """

    def __init__(
        self,
        study: Study,
        ref: SaeRef | None = None,
        plan: TrainingPlan | None = None,
        train_contexts: int = 1200,
    ):
        self.study, self.ref, self.plan = study, ref or study.sae(), plan or TrainingPlan()
        self.train_contexts = train_contexts
        self._like: dict[str, MeanCovariance] = {}
        self._held: dict[str, Stream] = {}

    # --- streams -------------------------------------------------------------------------------------------

    @cached_property
    def _text(self) -> Study:
        """The study with more contexts; its first contexts are the study's own."""
        profile = self.study.profile
        more = profile.with_overrides(n_contexts=profile.n_contexts + self.train_contexts)
        text = Study(more, self.study.store)
        if not torch.equal(text.contexts[: profile.n_contexts], self.study.contexts):
            raise ValueError(f"the text of {profile.dataset} changed between two readings; build the study again")
        return text

    @cached_property
    def _sae(self) -> Any:
        return self.study.load_sae(self.ref)

    @cached_property
    def _error_map(self) -> Any:
        return self.study.error_map(self.ref)

    def _x(self, role: str) -> torch.Tensor:
        site = self.study.site(self.ref.layer, self.ref.component)
        if role == "test":
            return site.x
        if role == "train":
            return self._text.site(self.ref.layer, self.ref.component).x[len(site.x) :]
        fit = site.split.fit.nonzero()[:, 0]
        chosen = torch.randperm(len(fit), generator=torch.Generator().manual_seed(self.study.profile.seed))
        return site.x[fit[chosen[: self.plan.n_validation]]]

    def stream(self, target: str, role: str = "test") -> Stream:
        """The rows of a target (one of `TARGETS`) for a role (``train``, ``validation``, ``test``: every kept token)."""
        if target not in TARGETS or role not in ROLES:
            raise ValueError(
                f"no stream {target!r} for {role!r}; targets are {', '.join(TARGETS)}, roles {', '.join(ROLES)}"
            )
        part: Part = "linear" if target.startswith("linear") else "nonlinear"
        x = self._x(role)
        if part == target:
            return ErrorStream(x, self._sae, self._error_map, part)
        device = models.resolve_device(self.study.profile.device)
        return GaussianStream(self.moments(part), len(x), seed=1 + ROLES.index(role), device=device)

    def moments(self, part: str) -> MeanCovariance:
        """Mean and covariance of an error part on the study's fitting tokens."""
        if part not in self._like:
            fit = self.study.site(self.ref.layer, self.ref.component).split.fit
            self._like[part] = moments(self.stream(part, "test"), keep=fit)
        return self._like[part]

    def _train_stream(self, target: str) -> Stream:
        """What a target's SAEs train on, in memory where it is small: all runs of a target draw from the same rows."""
        if target not in self._held:
            stream = self.stream(target, "train")
            small = isinstance(stream, ErrorStream) and stream.x.nbytes <= HELD_BYTES
            self._held = {target: HeldStream(stream) if small else stream}
        return self._held[target]

    # --- training ------------------------------------------------------------------------------------------

    def recipe(self, target: str, **run: Any) -> dict[str, Any]:
        """What determines a run (given `lr` and `seed`), or a target's grid (without), but for the version of the text."""
        plan = asdict(self.plan)
        for name in ("n_seeds", "learning_rates") if run else ("n_seeds",):
            plan.pop(name)
        profile = self.study.profile
        text = {name: getattr(profile, name) for name in ("dataset", "ctx_len", "skip", "seed")}
        sae = {"id": self.ref.id, "revision": self.ref.key()["revision"]}
        model = models.identity(profile)
        return {"model": model, "sae": sae, "text": text, "plan": plan, "target": target, **run}

    def _key(self, recipe: dict[str, Any]) -> dict[str, Any]:
        text = self._text._site_key(self.ref.layer, self.ref.component)
        return recipe | {"study": self.study.result_key(self.ref), "text": content_key(text)}

    def _kept(self, kind: str, recipe: dict[str, Any], compute: Any) -> tuple[Any, Arrays]:
        return self.study.store.kept(kind, self._key(recipe), compute, sources=(__name__,))

    def tuning(self, target: str) -> dict[float, float]:
        """Validation FVU at the end of a run with seed 0, for each learning rate that was tried (see `walk`)."""

        def compute() -> tuple[Any, None]:
            tried = walk(self.plan.learning_rates, lambda lr: self._run(target, lr, 0)[0]["validation_fvu"])
            return {"grid": [list(pair) for pair in tried.items()], **self.trained_on}, None

        return {lr: fvu for lr, fvu in self._kept("error_sae_lr", self.recipe(target), compute)[0]["grid"]}

    @property
    def trained_on(self) -> dict[str, Any]:
        """Which text a run of this study trains on: its version, and the first of its contexts."""
        return {"text": corpus.identity(self.study.profile), "first_context": self.study.profile.n_contexts}

    def train_run(self, target: str, lr: float, seed: int) -> tuple[Any, Arrays]:
        """Train one run: its record and its weights (matrices in float16)."""
        run = train(self._train_stream(target), self.stream(target, "validation"), self.plan, lr, seed)
        curve = {name: run.curve[name].round(6).tolist() for name in run.curve}
        data = {"lr": lr, "seed": seed, "improvement": run.improvement, "steps": run.steps, "curve": curve}
        half = {name: run.arrays[name].astype(np.float16) for name in ("W_enc", "W_dec")}
        return data | {"validation_fvu": run.validation_fvu, **self.trained_on}, run.arrays | half

    def _run(self, target: str, lr: float, seed: int) -> tuple[Any, Arrays]:
        recipe = self.recipe(target, lr=lr, seed=seed)
        return self._kept("error_sae", recipe, lambda: self.train_run(target, lr, seed))

    def run(self, target: str, seed: int = 0) -> tuple[dict[str, Any], Arrays]:
        """One finished run at the target's best learning rate: its record and its weights (matrices in float16)."""
        tuned = self.tuning(target)
        return self._run(target, min(tuned, key=lambda lr: tuned[lr]), seed)

    def sae(self, target: str, seed: int = 0) -> TopKSAE:
        """The trained SAE, in the target's own units."""
        return inference_sae(self.run(target, seed)[1], self.plan.k, models.resolve_device(self.study.profile.device))

    def runs(self) -> Iterator[tuple[str, int]]:
        """Every target and seed of the experiment."""
        return ((target, seed) for target in TARGETS for seed in range(self.plan.n_seeds))


def walk(rates: Sequence[float], fvu: Callable[[float], float]) -> dict[float, float]:
    """Try the rates of a ladder from its middle, step by step towards the lower FVU, until the best has both neighbours tried.

    Returns the FVU of every rate that was tried, in the order of the rates. The lowest lies at an end only where the ladder ends.
    """
    ladder = sorted(rates)
    at = len(ladder) // 2
    tried: dict[int, float] = {}
    while True:
        for i in range(max(at - 1, 0), min(at + 2, len(ladder))):
            if i not in tried:
                tried[i] = fvu(ladder[i])
        best = min(tried, key=lambda i: tried[i])
        if best == at:
            return {ladder[i]: tried[i] for i in sorted(tried)}
        at = best
