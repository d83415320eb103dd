"""The training runs: which there are, in which order, and how one is trained, saved, measured and kept."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from dm_utils.base.files import write_atomic
from dm_utils.chapters.dictionaries import gradients, measure, rules
from dm_utils.chapters.dictionaries.saving import CALIBRATION_TOKENS, save_at_l0
from dm_utils.dictionaries.methods import METHODS
from dm_utils.dictionaries.sae_tuning import TuningPlan, tune
from dm_utils.dictionaries.training import Activations, Plan, fit
from dm_utils.engine.study import Study
from dm_utils.lab import work as lab_work
from dm_utils.lab.suite import say_where

DENSE_L0S = (64, 112, 128)  # where a method that sets its L0 itself ends on the lab: TopK's curve must reach there


@dataclass(frozen=True)
class Run:
    """One dictionary: its method, width, wanted L0 and seed."""

    method: str
    d_sae: int
    l0: int
    seed: int

    @property
    def id(self) -> str:
        """Its name, and its folder's."""
        return f"{self.method}_{self.d_sae}_l0_{self.l0}_seed_{self.seed}"


def order(methods: Sequence[str], widths: Sequence[int], l0s: Sequence[int], seeds: int) -> list[Run]:
    """What matters most first: every method at the first width and L0 with one seed, TopK's curve, more seeds, then other L0s and widths.

    A method that sets its own L0 runs once, and brings runs of TopK that are as dense with it.
    """
    width, l0 = widths[0], l0s[0]
    curve = curve_l0s(l0) if "topk" in methods else []
    found = [Run(method, width, l0, 0) for method in methods]
    found += [Run("topk", width, k, 0) for k in curve]
    if any(METHODS[method].own_l0 for method in methods) and curve:
        found += [Run("topk", width, k, 0) for k in DENSE_L0S if k <= width]
    for seed in range(1, seeds):
        found += [Run(method, width, l0, seed) for method in methods if not METHODS[method].own_l0]
        found += [Run("topk", width, k, seed) for k in curve]
    found += [Run("topk", w, k, 0) for w in widths[1:] for k in curve]
    for w, k in [*((width, k) for k in l0s[1:]), *((w, l0) for w in widths[1:])]:
        found += [Run(method, w, k, 0) for method in methods if not METHODS[method].own_l0]
    return list(dict.fromkeys(found))


def headline(methods: Sequence[str], width: int, l0: int) -> list[Run]:
    """TopK's curve from the wanted L0 on, the nearest L0s first, and every other method trained alike at that L0; one seed each."""
    nearest = sorted(curve_l0s(l0), key=lambda k: abs(math.log(k / l0)))
    alike = [name for name in methods if name != "topk" and not METHODS[name].own_l0 and not METHODS[name].tunes]
    return [Run("topk", width, k, 0) for k in (l0, *nearest)] + [Run(name, width, l0, 0) for name in alike]


def curve_l0s(l0: int) -> list[int]:
    """The L0s of TopK's curve beside a wanted one."""
    return [k for k in (l0 // 4, l0 // 2, 2 * l0, 4 * l0) if k]


class Workshop:
    """A work folder: what runs train on, and what they left, in its folder `runs`.

    `contexts` of the evaluation text measure; `lrs`: by method's name; `dear`: whether the first seeds' measurements are all of them.
    """

    def __init__(
        self,
        work: Path,
        layer: int,
        plan: Plan,
        contexts: int,
        lrs: Mapping[str, float] | None = None,
        runs: str = "runs",
        dear: bool = True,
    ):
        self.work, self.layer, self.plan, self.contexts = work, layer, plan, contexts
        self.lrs, self.runs, self.dear = lrs or {}, runs, dear

    @cached_property
    def activations(self) -> Activations:
        """All of the training text's."""
        return Activations(lab_work.load(self.work, "training", self.layer))

    @cached_property
    def calibration(self) -> torch.Tensor:
        """What sets L0: tokens of the text that measures, of those that fit and so are not reported on; float32 [token, d]."""
        site = self.study.site(self.layer)
        x = site.x[site.split.fit]
        return x[:: max(1, len(x) // CALIBRATION_TOKENS)].float()

    @cached_property
    def study(self) -> Study:
        """What measures."""
        return measure.study_of(self.layer, self.contexts, self.work / "store")

    def plan_of(self, run: Run) -> Plan:
        """The run's own plan: its method's share of the steps, and its learning rate."""
        method = METHODS[run.method]
        lr = self.lrs.get("topk" if method.tunes else run.method, self.plan.lr)
        return replace(self.plan, steps=max(1, round(self.plan.steps * method.tokens)), seed=run.seed, lr=lr)

    def report(self, run: Run) -> dict[str, Any] | None:
        """What a finished run left, if it is finished and by today's plan."""
        file = self.folder(run) / "report.json"
        if not file.exists():
            return None
        found = json.loads(file.read_text())
        return found if found["plan"] == self._identity(run) else None

    def folder(self, run: Run) -> Path:
        """Where a run's checkpoint, SAE and report lie."""
        return self.work / self.runs / run.id

    def do(self, run: Run) -> dict[str, Any]:
        """Train, save and measure a run that is not finished; its report is written last."""
        if (done := self.report(run)) is not None:
            return done
        method, folder, plan = METHODS[run.method], self.folder(run), self.plan_of(run)
        trained = self._tune(run) if method.tunes else self._train(run)
        about = {"title": method.title, "method": run.method, "d_sae": run.d_sae, "l0_wanted": run.l0, "seed": run.seed}
        about |= {"layer": self.layer, "lr": plan.lr, "steps": plan.steps, "tokens": plan.steps * plan.batch}
        about |= trained | {"plan": self._identity(run)}
        about["encode_flops"] = method.encode_flops(self.calibration.shape[1], run.d_sae, run.l0)
        found = about | measure.row(self._study_of(run), folder / "sae", all_of_it=self.dear and run.seed == 0)
        write_atomic(folder / "report.json", json.dumps(found, indent=1).encode())
        (folder / "rules.json").unlink(missing_ok=True)  # of what lay here before
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        return found

    def rules(self, run: Run) -> dict[str, float]:
        """What token rules say of a finished run's latents, measured once."""
        file, asked = self.folder(run) / "rules.json", asdict(rules.PLAN) | {"latents": rules.LATENTS}
        if not file.exists() or json.loads(file.read_text())["asked"] != asked:
            found = rules.row(self._study_of(run), self.folder(run) / "sae")
            write_atomic(file, json.dumps({"asked": asked, "found": found}).encode())
        return json.loads(file.read_text())["found"]

    def _study_of(self, run: Run) -> Study:
        if not METHODS[run.method].tunes:
            return self.study
        return measure.study_of(self.layer, self.contexts, self.work / "store", self.folder(run) / "model")

    def _identity(self, run: Run) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self.plan_of(run)) | {"contexts": self.contexts}))

    def _train(self, run: Run) -> dict[str, Any]:
        """Train and save; the processor seconds, and what calibration found."""
        method, training = METHODS[run.method], self.activations
        if method.gradients:
            training = gradients.with_gradients(self.work, self.layer)
        torch.manual_seed(run.seed)
        sae: Any = method.new(training.x.shape[1], run.d_sae, run.l0)
        seconds = fit(sae, training, self.plan_of(run), self.folder(run), method.revive)
        folder, l0 = self.folder(run) / "sae", None if method.own_l0 else run.l0
        saved, tuned = save_at_l0(sae, folder, self.calibration, l0)
        say_where(saved, lab_work.hook_of(self.layer), self.layer, run.l0)
        saved.save_model(folder)
        return {"train_seconds": round(seconds, 1), "calibration": tuned}

    def _tune(self, run: Run) -> dict[str, Any]:
        """Tune the lab's model through the SAE of TopK's run, which is trained first where it is not there."""
        topk, folder = replace(run, method="topk"), self.folder(run)
        before = self.do(topk)
        shutil.copytree(self.folder(topk) / "sae", folder / "sae", dirs_exist_ok=True)
        begun, model = time.process_time(), lab_work.language_model(self.work)
        sae = SAE.load_from_disk(folder / "sae", dtype="float32")
        contexts = lab_work.training_contexts(self.work, self.layer)
        tune(model, model.model.layers[self.layer], sae, contexts, TuningPlan(seed=run.seed))
        shutil.copytree(self.work / "model", folder / "model", dirs_exist_ok=True)  # for its tokenizer
        model.save_pretrained(folder / "model")
        seconds = before["train_seconds"] + time.process_time() - begun
        return {"train_seconds": round(seconds, 1), "calibration": before["calibration"]}
