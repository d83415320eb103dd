"""The repairs that are trained: which runs there are, and how one is trained, measured and kept."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from dm_utils.base.files import write_atomic
from dm_utils.chapters.repairs import channel, measuring, tuning
from dm_utils.dictionaries import topk
from dm_utils.dictionaries.calibration import calibrate
from dm_utils.dictionaries.sae_tuning import TuningPlan, tune
from dm_utils.dictionaries.training import Activations, Plan, fit
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.lab import work
from dm_utils.maths.encoding import reconstruct
from dm_utils.world.profiles import load_profile
from dm_utils.world.sae_ref import SaeRef

CALIBRATION_TOKENS, BLOCK = 16384, 8192
SAME_SAE = ("boost", "kl", "mse", "adapter", "model")  # repairs of a shipped SAE
FROM_SCRATCH = ("batchtopk", "batchtopk_channel", "matryoshka", "matryoshka_channel")


@dataclass(frozen=True)
class Recipe:
    """How all of them are trained: `dictionary` from activations, `descent` and `model` through the model; ranks; what measures."""

    layer: int
    l0: int
    dictionary: Plan = field(default_factory=lambda: Plan(steps=400, batch=1024))
    descent: tuning.Descent = field(default_factory=tuning.Descent)
    model: TuningPlan = field(default_factory=lambda: TuningPlan(steps=30))
    channel_rank: int = 24
    adapter_rank: int = 16
    spliced: int = 16

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return dict(json.loads(json.dumps(asdict(self))))


@dataclass(frozen=True)
class Run:
    """One repair of the SAE of one width."""

    repair: str
    d_sae: int

    @property
    def id(self) -> str:
        """Its name, and its folder's."""
        return f"{self.repair}_{self.d_sae}"


def order(widths: Sequence[int]) -> Iterator[Run]:
    """What matters most first: BatchTopK with a channel and without, every repair at the narrowest width, Matryoshka, other widths."""
    narrow = widths[0]
    yield from (Run(repair, narrow) for repair in (*FROM_SCRATCH[:2], *SAME_SAE, *FROM_SCRATCH[2:]))
    yield from (Run(repair, width) for width in widths[1:] for repair in SAME_SAE)


class Workshop:
    """A work folder: what the runs train on, and what they left."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.folder, self.recipe = folder, recipe

    @cached_property
    def study(self) -> Study:
        """What measures: the lab's protocol, whole contexts held out."""
        return Study(load_profile("lab", layer=self.recipe.layer, split_by="context"))

    @cached_property
    def contexts(self) -> Tensor:
        """The training text."""
        return work.training_contexts(self.folder, self.recipe.layer)

    def ref(self, width: int) -> SaeRef:
        """The shipped SAE that a run repairs."""
        return self.study.sae(width=width, near_l0=self.recipe.l0)

    def report(self, run: Run) -> dict[str, Any] | None:
        """What a finished run left, if it is finished and by this recipe."""
        file = self.folder / "repairs" / run.id / "report.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        return found if found.get("plan") == self.recipe.plain() else None

    def do(self, run: Run) -> dict[str, Any]:
        """Train and measure a run that is not finished; its report is written last."""
        if (done := self.report(run)) is not None:
            return done
        folder = self.folder / "repairs" / run.id
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        made = getattr(self, f"_{run.repair}", None) or self._from_scratch
        found = {"repair": run.repair, "d_sae": run.d_sae, "l0": self.recipe.l0, "layer": self.recipe.layer}
        found |= made(run, folder) | {"plan": self.recipe.plain()}
        write_atomic(folder / "report.json", json.dumps(found, indent=1).encode())
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        return found

    # --- from activations ------------------------------------------------------------------------------------

    @cached_property
    def _x(self) -> Tensor:
        return work.load(self.folder, "training", self.recipe.layer)

    def _boost(self, run: Run, folder: Path) -> dict[str, Any]:
        """A TopK SAE of the same size on the error of the shipped one (2507.12990, with TopK for BatchTopK)."""
        first, plan = self.study.load_sae(self.ref(run.d_sae)), self.recipe.dictionary
        x = self._x[:: max(1, len(self._x) // (plan.steps * plan.batch))]
        blocks = (block.float() for block in x.split(BLOCK))
        error = torch.cat([(block - reconstruct(first, block)).half() for block in blocks])
        second: Any = topk.new(error.shape[1], run.d_sae, self.recipe.l0)
        seconds = fit(second, Activations(error), plan, folder)
        second = self._saved(second, folder)

        def boosted(x: Tensor) -> Tensor:
            out = reconstruct(first, x)
            return out + reconstruct(second, x - out)

        told = self._told(plan.steps, plan.batch, seconds)
        return told | self._measured(self.study, run, partial(reconstruct, first), boosted)

    def _from_scratch(self, run: Run, folder: Path) -> dict[str, Any]:
        """A BatchTopK or Matryoshka SAE, alone or with a dense channel beside it, which is what its twin is without."""
        base, _, with_channel = run.repair.partition("_")
        rank = self.recipe.channel_rank if with_channel else 0
        sae, plan = channel.new(base, self._x.shape[1], run.d_sae, self.recipe.l0, rank), self.recipe.dictionary
        seconds = fit(sae, Activations(self._x), plan, folder)
        dense = (sae.down @ sae.up).detach() if rank else torch.zeros(self._x.shape[1], self._x.shape[1])
        plain = self._saved(sae, folder)
        calibration = work.load(self.folder, "calibration", self.recipe.layer)[:CALIBRATION_TOKENS].float()
        calibrate(plain, calibration - calibration @ dense, self.recipe.l0)

        def own(x: Tensor) -> Tensor:
            return x @ dense + reconstruct(plain, x - x @ dense)

        return self._told(plan.steps, plan.batch, seconds) | self._measured(self.study, run, own, own)

    @staticmethod
    def _told(steps: int, tokens: int, seconds: float) -> dict[str, Any]:
        """How long a run trained, on so many tokens per step."""
        return {"steps": steps, "tokens": steps * tokens, "train_seconds": round(seconds, 1)}

    @staticmethod
    def _saved(sae: Any, folder: Path) -> Any:
        shutil.rmtree(folder / "sae", ignore_errors=True)
        sae.save_inference_model(folder / "sae")
        return SAE.load_from_disk(folder / "sae", dtype="float32").eval().requires_grad_(False)

    # --- through the model -----------------------------------------------------------------------------------

    def _kl(self, run: Run, folder: Path) -> dict[str, Any]:
        sae = self.study.load_sae(self.ref(run.d_sae)).requires_grad_(True)
        return self._descended(run, folder, sae)

    _mse = _kl

    def _adapter(self, run: Run, folder: Path) -> dict[str, Any]:
        sae = self.study.load_sae(self.ref(run.d_sae))
        adapter = tuning.Adapter(sae, sae.cfg.d_in, self.recipe.adapter_rank)
        return self._descended(run, folder, adapter)

    def _descended(self, run: Run, folder: Path, repaired: Any) -> dict[str, Any]:
        model, plan = work.language_model(self.folder), self.recipe.descent
        through = tuning.Through(model, model.model.layers[self.recipe.layer])
        kind = "mse" if run.repair == "mse" else "kl"
        seconds = tuning.descend(
            run.id, repaired, lambda tokens: through.loss(kind, repaired, tokens), self.contexts, plan, folder
        )
        first = self.study.load_sae(self.ref(run.d_sae))
        repaired.eval().requires_grad_(False)
        told = self._told(plan.steps, plan.contexts * self.contexts.shape[1], seconds)
        return told | self._measured(self.study, run, partial(reconstruct, first), repaired)

    def _model(self, run: Run, folder: Path) -> dict[str, Any]:
        """The model is adapted to its SAE (`sae_tuning`), and the SAE's error measured in the adapted model."""
        model, sae = work.language_model(self.folder), self.study.load_sae(self.ref(run.d_sae))
        begun, plan = time.process_time(), self.recipe.model
        tune(model, model.model.layers[self.recipe.layer], sae, self.contexts, plan)
        told = self._told(plan.steps, plan.contexts * self.contexts.shape[1], time.process_time() - begun)
        shutil.copytree(self.folder / "model", folder / "model", dirs_exist_ok=True)  # for its tokenizer
        model.save_pretrained(folder / "model")
        profile = load_profile("lab", layer=self.recipe.layer, split_by="context", model=str(folder / "model"))
        tuned, out = Study(profile, Store(folder / "store")), partial(reconstruct, sae)
        return told | self._measured(tuned, run, out, out)

    # --- measuring -------------------------------------------------------------------------------------------

    def _measured(self, study: Study, run: Run, before: Any, after: Any) -> dict[str, Any]:
        """Columns of the parts after a repair, of those before it in the lab as it is, and of the losses."""
        site, p = self.study.site(self.recipe.layer), self.study.profile
        other = study.site(self.recipe.layer)
        x, sums = measuring.x_sums(other.design), {}
        for name, where, made in (("before", site, before), ("after", other, after)):
            sums[name] = measuring.part_sums(where.design, _of_x(made), f"{run.id}, {name}")
        found = measuring.parts(x, sums["before"], sums["after"], p.n_bootstrap, p.seed)
        first = measuring.parts(measuring.x_sums(site.design), sums["before"], sums["before"], p.n_bootstrap, p.seed)
        columns = {f"before_{part}": first[part].value for part in measuring.PARTS}
        own = measuring.spliced(study, other, lambda x: {"after": after(x)}, self.recipe.spliced)
        lab = measuring.spliced(self.study, site, lambda x: {"before": before(x)}, self.recipe.spliced)
        losses = measuring.losses(own) | measuring.losses(lab)
        found |= measuring.downstream(losses, "before", "after", p.n_bootstrap, p.seed)
        return columns | {column: value for name, e in found.items() for column, value in e.columns(name).items()}


def _of_x(made: Callable[[Tensor], Tensor]) -> measuring.Reconstruct:
    return lambda _, x: made(x)
