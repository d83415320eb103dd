"""The training runs: which there are, in which order, and how one is trained, saved, measured and kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from dm_utils.base.files import write_atomic
from dm_utils.chapters.dictionaries import data, measure
from dm_utils.dictionaries.calibration import calibrate
from dm_utils.dictionaries.methods import METHODS, Method
from dm_utils.dictionaries.sae_tuning import TuningPlan, tune
from dm_utils.dictionaries.training import Activations, Plan, fit
from dm_utils.engine.study import Study
from dm_utils.lab.suite import say_where

CALIBRATION_TOKENS = 16384


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


def order(methods: Sequence[str], widths: Sequence[int], l0s: Sequence[int], seeds: int) -> Iterator[Run]:
    """What matters most first: every method at the first width and L0 with one seed, TopK's curve, more seeds, then the other sizes."""
    width, l0 = widths[0], l0s[0]
    yield from (Run(method, width, l0, 0) for method in methods)
    curve = [k for k in (l0 // 2, 2 * l0, 4 * l0) if "topk" in methods]
    yield from (Run("topk", width, k, 0) for k in curve)
    for seed in range(1, seeds):
        yield from (Run(method, width, l0, seed) for method in methods)
        yield from (Run("topk", width, k, seed) for k in curve)
    for other in [(w, k) for w in widths for k in l0s][1:]:
        yield from (Run(method, *other, 0) for method in methods if (method, other) != ("topk", (width, l0 // 2)))


class Workshop:
    """A work folder: what runs train on, and what they left. `contexts` of the evaluation text measure."""

    def __init__(self, work: Path, layer: int, plan: Plan, contexts: int):
        self.work, self.layer, self.plan, self.contexts = work, layer, plan, contexts

    @cached_property
    def activations(self) -> Activations:
        """All of the training text's."""
        return Activations(data.load(self.work, "training", self.layer))

    @cached_property
    def study(self) -> Study:
        """What measures."""
        return measure.study_of(self.layer, self.contexts, self.work / "store")

    def report(self, run: Run) -> dict[str, Any] | None:
        """What a finished run left, if it is finished and by today's plan."""
        file = self.work / "runs" / run.id / "report.json"
        if not file.exists():
            return None
        found = json.loads(file.read_text())
        return found if found["plan"] == self._identity(run) else None

    def do(self, run: Run) -> dict[str, Any]:
        """Train, save and measure a run that is not finished; its report is written last."""
        if (done := self.report(run)) is not None:
            return done
        method, folder = METHODS[run.method], self.work / "runs" / run.id
        plan = replace(self.plan, steps=max(1, round(self.plan.steps * method.tokens)), seed=run.seed)
        torch.manual_seed(run.seed)
        training = self._training(method, plan)
        sae: Any = method.new(training.x.shape[1], run.d_sae, run.l0)
        seconds = fit(sae, training, plan, folder, method.revive)
        tuned = self._save(sae, run, folder / "sae")
        about = {"title": method.title, "method": run.method, "d_sae": run.d_sae, "l0_wanted": run.l0, "seed": run.seed}
        about |= {"layer": self.layer, "tokens": plan.steps * plan.batch}
        about |= {"train_seconds": round(seconds, 1), "calibration": tuned, "plan": self._identity(run)}
        about["encode_flops"] = method.encode_flops(training.x.shape[1], run.d_sae, run.l0)
        study = self.study
        if method.tunes:
            study = measure.study_of(self.layer, self.contexts, self.work / "store", self._tuned(folder, run.seed))
        found = about | measure.row(study, folder / "sae")
        write_atomic(folder / "report.json", json.dumps(found, indent=1).encode())
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        return found

    def _identity(self, run: Run) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self.plan) | {"seed": run.seed, "contexts": self.contexts}))

    def _training(self, method: Method, plan: Plan) -> Activations:
        if method.gradients:
            return data.with_gradients(self.work, self.layer, plan.steps * plan.batch)
        return self.activations

    def _tuned(self, folder: Path, seed: int) -> Path:
        """Tune the lab's model through the run's SAE; the folder of the tuned model."""
        model = data.language_model(self.work)
        contexts = data.training_contexts(self.work, self.layer)
        sae = SAE.load_from_disk(folder / "sae", dtype="float32")
        tune(model, model.model.layers[self.layer], sae, contexts, TuningPlan(seed=seed))
        shutil.copytree(self.work / "model", folder / "model", dirs_exist_ok=True)  # for its tokenizer
        model.save_pretrained(folder / "model")
        return folder / "model"

    def _save(self, sae: Any, run: Run, folder: Path) -> float:
        """Save the inference SAE with the L0 at which methods are compared; the number that gave it that L0."""
        shutil.rmtree(folder, ignore_errors=True)
        sae.save_inference_model(folder)
        saved: Any = SAE.load_from_disk(folder, dtype="float32")
        x = data.load(self.work, "calibration", self.layer)[:CALIBRATION_TOKENS].float()
        tuned = calibrate(saved, x, run.l0)
        say_where(saved, data.hook_of(self.layer), self.layer, run.l0)
        saved.save_model(folder)
        return tuned
