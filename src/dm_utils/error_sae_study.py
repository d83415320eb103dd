"""Section 5.2 for one SAE of a study: SAEs trained on its two error parts and on their Gaussian twins, measured and explained.

Three kinds of text, none shared: contexts beyond the study's train; the study's fitting tokens stop a run and choose its learning
rate; its held-out tokens give every reported number.  Runs are kept one by one, so an interrupted experiment goes on where it
stopped.  For the lab, finished runs are shipped (`SHIPPED`); ``python -m dm_utils.error_sae_study`` trains and writes them anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sae_lens import TopKSAE

from dm_utils import models
from dm_utils.decomposition import total_variance
from dm_utils.error_saes import TARGETS, TrainingPlan, inference_sae, train
from dm_utils.error_streams import ErrorStream, GaussianStream, Moments2, Part, Stream, moments
from dm_utils.regression import Bootstrap, Estimate, HeldOutSums, Sums
from dm_utils.saes import SaeRef, codes
from dm_utils.store import Arrays, CorruptEntryError, Store, content_key
from dm_utils.study import Study
from dm_utils.text_windows import Activity, Plan

log = logging.getLogger("dm_utils")
SHIPPED = Path(__file__).parent / "lab" / "results"
ROLES = ("train", "validation", "test")


class ErrorSaeStudy:
    """The experiment: streams, training runs, their FVU, and the activity of their latents.

    Parameters
    ----------
    study : Study
        Fits LinearError and holds the text that measures.
    ref : SaeRef, optional
        Whose error; the study's own SAE by default.
    plan : TrainingPlan
    train_contexts : int
        Contexts of the same text, after the study's, that train.
    shipped : Store, optional
        Where finished runs are looked for before anything is trained.

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
        shipped: Store | None = None,
    ):
        self.study, self.ref, self.plan = study, ref or study.sae(), plan or TrainingPlan()
        self.train_contexts, self.shipped = train_contexts, shipped or Store(SHIPPED)
        self._like: dict[str, Moments2] = {}

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

    def moments(self, part: str) -> Moments2:
        """Mean and covariance of an error part on the training text."""
        if part not in self._like:
            self._like[part] = moments(self.stream(part, "train"))
        return self._like[part]

    # --- training ------------------------------------------------------------------------------------------

    def recipe(self, target: str, **run: Any) -> dict[str, Any]:
        """What determines a run (given `lr` and `seed`), or a target's grid (without), apart from the text."""
        plan = asdict(self.plan)
        for name in ("n_seeds", "learning_rates") if run else ("n_seeds",):
            plan.pop(name)
        model = models.identity(self.study.profile)
        return {"model": model, "sae": self.ref.key(), "plan": plan, "target": target, **run}

    def _key(self, recipe: dict[str, Any]) -> dict[str, Any]:
        text = self._text._site_key(self.ref.layer, self.ref.component)
        return recipe | {"study": self.study.result_key(self.ref), "text": content_key(text)}

    def _kept(self, kind: str, recipe: dict[str, Any], compute: Any) -> tuple[Any, Arrays]:
        try:
            shipped = self.shipped.load(kind, recipe)
        except CorruptEntryError as error:
            log.warning("%s. It is recomputed.", error)
            shipped = None
        return shipped or self.study.store.get_or_compute(kind, self._key(recipe), compute)

    def tuning(self, target: str) -> dict[float, float]:
        """Validation FVU at the end of a run with seed 0, for each learning rate of the grid."""

        def compute() -> tuple[Any, None]:
            return [[lr, self._run(target, lr, 0)[0]["validation_fvu"]] for lr in self.plan.learning_rates], None

        return {lr: fvu for lr, fvu in self._kept("error_sae_lr", self.recipe(target), compute)[0]}

    def _run(self, target: str, lr: float, seed: int) -> tuple[Any, Arrays]:
        def compute() -> tuple[Any, Arrays]:
            run = train(self.stream(target, "train"), self.stream(target, "validation"), self.plan, lr, seed)
            curve = {name: run.curve[name].round(6).tolist() for name in run.curve}
            data = {"lr": lr, "seed": seed, "converged": run.converged, "steps": run.steps, "curve": curve}
            half = {name: run.arrays[name].astype(np.float16) for name in ("W_enc", "W_dec")}
            return data | {"validation_fvu": run.validation_fvu(self.plan)}, run.arrays | half

        return self._kept("error_sae", self.recipe(target, lr=lr, seed=seed), compute)

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

    def curves(self) -> pd.DataFrame:
        """Loss curves of every reported run: target, seed, lr, converged, step, train_fvu, validation_fvu."""
        parts = []
        for target, seed in self.runs():
            data = self.run(target, seed)[0]
            parts.append(
                pd.DataFrame(data["curve"]).assign(target=target, seed=seed, lr=data["lr"], converged=data["converged"])
            )
        return pd.concat(parts, ignore_index=True)

    def provenance(self) -> str:
        """One sentence that says where the trained SAEs come from."""
        recipes = [self.recipe(t, lr=self.run(t, s)[0]["lr"], seed=s) for t, s in self.runs()]
        shipped = sum(self.shipped.path("error_sae", recipe).exists() for recipe in recipes)
        if shipped == len(recipes):
            return (
                f"These {len(recipes)} SAEs were trained beforehand and are shipped with the book; every number below is measured "
                "now, on this run's text. `python -m dm_utils.error_sae_study` trains all of them again."
            )
        return f"{len(recipes) - shipped} of these {len(recipes)} SAEs were trained by this study and are kept in its store."

    # --- measurements --------------------------------------------------------------------------------------

    def _sums(self, target: str) -> Sums:
        """Per-context sums over the held-out tokens of the target and of every seed's residual."""
        site = self.study.site(self.ref.layer, self.ref.component)
        sums, mean = HeldOutSums(site.split), self._mean(target)
        saes = [self.sae(target, seed) for seed in range(self.plan.n_seeds)]
        with torch.no_grad():
            for rows, y in self.stream(target, "test").blocks(site.design.block):
                centred = y - mean.to(y.device, y.dtype)
                residual2 = torch.stack([(y - sae(y)).square().sum(-1) for sae in saes], 1)
                sums.add(rows, x=centred, x2=centred**2, residual2=residual2)
        return sums.totals

    def _mean(self, target: str) -> torch.Tensor:
        rows = next(self.stream(target, "validation").blocks(self.plan.n_validation))[1]
        return rows.double().mean(0)

    @cached_property
    def _bootstrap(self) -> Bootstrap:
        merged: Sums = {}
        for target in TARGETS:
            sums = self._sums(target)
            merged |= {f"{target}.{name}": total for name, total in sums.items()} | {"n": sums["n"]}
        profile = self.study.profile
        return Bootstrap(merged, profile.n_bootstrap, profile.seed)

    def fvu(self, target: str, seed: int | None = None) -> Estimate:
        """Held-out FVU of a target's SAE: of one seed, or the mean over seeds."""
        return self._bootstrap.estimate(lambda sums: _fvu(sums, target, seed))

    def fvu_gap(self, a: str, b: str) -> Estimate:
        """Mean held-out FVU of target `a` minus that of `b`, resampled together."""
        return self._bootstrap.estimate(lambda sums: _fvu(sums, a, None) - _fvu(sums, b, None))

    def table(self) -> pd.DataFrame:
        """One row per run: target, seed, lr, steps, converged, fvu, fvu_low, fvu_high."""
        rows = []
        for target, seed in self.runs():
            data, fvu = self.run(target, seed)[0], self.fvu(target, seed)
            rows.append({"target": target} | {name: data[name] for name in ("seed", "lr", "steps", "converged")})
            rows[-1] |= {"fvu": fvu.value, "fvu_low": fvu.low, "fvu_high": fvu.high}
        return pd.DataFrame(rows)

    def dense_fvu(self, part: str) -> float:
        """What the best k dense directions (principal components) would leave: Σ of the other variances / Σ of all."""
        variances = torch.linalg.eigvalsh(self.moments(part).covariance).flip(0).clamp_min(0)
        return float(variances[self.plan.k :].sum() / variances.sum())

    def activity(self, part: str, plan: Plan, trained_on: str | None = None, seed: int = 0) -> Activity:
        """Where the latents of an SAE are active on an error part; `trained_on` names another target's SAE (a control)."""
        site, sae = self.study.site(self.ref.layer, self.ref.component), self.sae(trained_on or part, seed)
        rows, latents, values = [], [], []
        for block, y in self.stream(part, "test").blocks(site.design.block):
            code = codes(sae, y)
            rows.append(torch.arange(block.start, block.stop).repeat_interleave(code.l0.cpu()))
            latents.append(code.indices.cpu())
            values.append(code.values.cpu())
        row, latent, value = (torch.cat(pieces).numpy() for pieces in (rows, latents, values))
        return Activity(row, latent, value, site.token_id.numpy(), site.context.numpy(), site.position.numpy(), plan)


def _fvu(sums: Sums, target: str, seed: int | None) -> torch.Tensor:
    """Σ‖y − Sae(y)‖² / Σ‖y − mean‖² [draw]."""
    of = {name: sums[f"{target}.{name}"] for name in ("n", "x", "x2", "residual2")}
    residual2 = of["residual2"].mean(-1) if seed is None else of["residual2"][:, seed]
    return residual2 / total_variance(of)


def precompute(experiment: ErrorSaeStudy, store: Store) -> None:
    """Train every run that `store` lacks and write it there, with the grid that chose its learning rate."""
    for target in TARGETS:
        store.save(
            "error_sae_lr", experiment.recipe(target), [list(pair) for pair in experiment.tuning(target).items()]
        )
    for target, seed in experiment.runs():
        data, arrays = experiment.run(target, seed)
        store.save("error_sae", experiment.recipe(target, lr=data["lr"], seed=seed), data, arrays)


def _main() -> None:
    study = Study("lab")
    precompute(ErrorSaeStudy(study, shipped=Store(SHIPPED)), Store(SHIPPED))


if __name__ == "__main__":
    _main()
