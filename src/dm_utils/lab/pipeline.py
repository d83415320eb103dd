"""The whole recipe, from the text to the manifest. Each step leaves its result in the work folder and is not repeated."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from dm_utils.lab import activations, baselines, language_model, manifest, sae_training, suite, text

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class LabRecipe:
    """Everything that determines the lab: the model's recipe, the SAEs', and which text each of them sees."""

    model: language_model.ModelRecipe = field(default_factory=language_model.ModelRecipe)
    saes: sae_training.SaeRecipe = field(default_factory=sae_training.SaeRecipe)
    suite: tuple[str, ...] = field(default_factory=lambda: tuple(spec.id for spec in suite.full_suite()))
    package: str | None = None
    sae_contexts: int = 8400
    calibration_contexts: int = 300
    health_contexts_step: int = 3
    seed: int = 0


def fast_lab() -> LabRecipe:
    """Return a recipe that runs through every step in seconds, for tests: two layers, 60 steps, three tiny SAEs."""
    model = language_model.ModelRecipe(
        n_layers=2, d_model=32, d_mlp=64, n_heads=2, n_key_value_heads=1, d_head=16, vocabulary_size=512, ctx_len=64,
        max_ctx_len=64, sliding_window=32, tokens=60 * 8 * 64, batch_contexts=8, warmup_steps=10, checkpoint_steps=20,
        compile=False,
    )  # fmt: skip
    saes = replace(sae_training.SaeRecipe(), steps=60, jumprelu_steps=60, batch_tokens=256, dead_window_steps=20)
    ids = ("resid_1_topk_64_l0_4", "att_1_topk_64_l0_4", "resid_1_jumprelu_64_l0_4")
    return LabRecipe(model, saes, ids, package="sae_lens", sae_contexts=200, calibration_contexts=40)


def train_lab(work: Path, recipe: LabRecipe, device: str = "cpu", workers: int = 2) -> Path:
    """Run every step that the work folder does not hold yet, and return the finished weights folder inside it.

    Parameters
    ----------
    work : Path
        Holds the results of each step; running again goes on from there.
    recipe : LabRecipe
        What to train.
    device : str
        ``"cpu"`` or ``"cuda"``.
    workers : int
        SAEs trained at the same time, one thread each (on CUDA: one after the other).

    Raises
    ------
    ValueError
        If the work folder was begun with another recipe, or a finished SAE fails its health check.
    """
    train(work, recipe, device, workers)
    return assemble(work, recipe)


def train(work: Path, recipe: LabRecipe, device: str = "cpu", workers: int = 2) -> None:
    """Run every step of `train_lab` up to the SAEs: the work folder then holds ``model/`` and ``saes/``."""
    work.mkdir(parents=True, exist_ok=True)
    training, held_out = prepare_text(work, recipe, workers)
    train_language_model(work, training, held_out, recipe, device)
    collect_activations(work, training, held_out, recipe, device)
    train_suite(work, recipe, device, workers)


def adopt_model(work: Path) -> None:
    """Put the shipped language model and its tokenizer into the work folder, as if they had been trained there."""
    if (work / "model.json").exists():
        return
    shipped = manifest.weights_path() / "model"
    for folder in ("model", "tokenizer"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(shipped / name, work / "tokenizer" / name)
    shutil.copytree(shipped, work / "model", dirs_exist_ok=True)
    record = manifest.read_manifest()
    _write(work / "model.json", record["model"] | {"text": record["text"]})


def prepare_text(work: Path, recipe: LabRecipe, workers: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Read the texts, train the tokenizer and pack both into contexts (uint16 [context, ctx_len])."""
    folder = work / "text"
    if not (folder / "report.json").exists():
        folder.mkdir(exist_ok=True)
        documents = text.training_text(recipe.package, workers)
        held_out = text.evaluation_text()[:: 1 if recipe.package is None else 20]
        if not (work / "tokenizer").exists():
            text.train_tokenizer(documents, work / "tokenizer", recipe.model.vocabulary_size)
        report = {}
        for name, part in (("training", documents), ("evaluation", held_out)):
            contexts = text.pack(part, work / "tokenizer", recipe.model.ctx_len)
            np.save(folder / f"{name}.npy", contexts)
            report[name] = {"documents": len(part), "characters": sum(map(len, part)), "tokens": contexts.size}
        _write(folder / "report.json", report)
    return np.load(folder / "training.npy", mmap_mode="r"), np.load(folder / "evaluation.npy", mmap_mode="r")


def train_language_model(
    work: Path, training: np.ndarray, held_out: np.ndarray, recipe: LabRecipe, device: str = "cpu"
) -> dict[str, Any]:
    """Train the model, save it with its tokenizer under ``model/``, and measure it beside n-gram models."""
    report = work / "model.json"
    if not report.exists():
        model, log = language_model.train_model(training, recipe.model, work / "checkpoint", device)
        language_model.save_model(model, work / "model")
        for name in TOKENIZER_FILES:
            shutil.copy(work / "tokenizer" / name, work / "model" / name)
        _write(report, {"training": _thinned(log), "evaluation": evaluate(work / "model", training, held_out)})
    return json.loads(report.read_text())


def evaluate(folder: Path, training: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Return mean nats per token on the held-out contexts: of the saved model, and of n-grams counted in training."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ngrams = baselines.fit_ngrams(training, model.config.vocab_size)
    return {
        "model_nats": float(language_model.evaluate_model(model, held_out).mean()),
        "trigram_nats": float(ngrams.nats(held_out).mean()),
        "unigram_nats": float(ngrams.unigram_nats(held_out).mean()),
        "tokens": int(held_out[:, 1:].size),
    }


def _thinned(log: dict[str, Any], points: int = 120) -> dict[str, Any]:
    losses = np.asarray(log["losses"])
    blocks = np.array_split(np.arange(len(losses)), min(points, len(losses)))
    curve = [{"step": int(block[-1]) + 1, "nats": round(float(losses[block].mean()), 4)} for block in blocks]
    return {**{name: value for name, value in log.items() if name != "losses"}, "loss_curve": curve}


def collect_activations(
    work: Path, training: np.ndarray, held_out: np.ndarray, recipe: LabRecipe, device: str = "cpu"
) -> None:
    """Collect the activations of every site: to train on, to calibrate thresholds on, and to check health on."""
    hooks = list(dict.fromkeys(suite.SaeSpec.from_id(name).hook_name for name in recipe.suite))
    order = np.random.default_rng([recipe.seed, 1]).permutation(len(training))
    n_train, n_calibrate = recipe.sae_contexts, recipe.calibration_contexts
    if n_train + n_calibrate > len(training):
        n_train, n_calibrate = int(0.8 * len(training)), int(0.1 * len(training))
    bridge = None
    for part, contexts in {
        "health": held_out[:: recipe.health_contexts_step],
        "calibration": training[np.sort(order[n_train : n_train + n_calibrate])],
        "training": training[np.sort(order[:n_train])],
    }.items():
        folder = work / "activations" / part
        if all((folder / f"{name}.npy").exists() for name in hooks):
            continue
        bridge = activations.load_bridge(work / "model", device) if bridge is None else bridge
        activations.collect(bridge, contexts, hooks, folder)


def train_suite(work: Path, recipe: LabRecipe, device: str = "cpu", workers: int = 2) -> None:
    """Train the SAEs that the work folder lacks, in the order of the suite, ``workers`` at a time."""
    missing = [name for name in recipe.suite if not (work / "reports" / f"{name}.json").exists()]
    (work / "reports").mkdir(exist_ok=True)
    with tqdm(total=len(recipe.suite), initial=len(recipe.suite) - len(missing), desc="SAEs", unit="SAE") as bar:
        if device != "cpu" or workers == 1:
            for name in missing:
                _tell(bar, train_one(work, name, recipe.saes, device))
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for job in as_completed([pool.submit(train_one, work, name, recipe.saes, device) for name in missing]):
                _tell(bar, job.result())


def _tell(bar: Any, report: dict[str, Any]) -> None:
    bar.write(
        report["id"] + "".join(f"  {name} {report[name]:.4g}" for name in ("fvu", "l0", "dead_fraction", "seconds"))
    )
    bar.update()


def train_one(work: Path, sae_id: str, recipe: sae_training.SaeRecipe, device: str = "cpu") -> dict[str, Any]:
    """Train, save and check one SAE of the suite; its report is written last."""
    spec = suite.SaeSpec.from_id(sae_id)
    begun = time.monotonic()
    files = {
        part: work / "activations" / part / f"{spec.hook_name}.npy" for part in ("training", "calibration", "health")
    }
    batches = activations.ActivationBatches(files["training"], recipe.batch_tokens, recipe.seed + spec.seed)
    sae = sae_training.train_sae(spec, batches, recipe, device)
    report: dict[str, Any] = {"id": spec.id, "hook_name": spec.hook_name, "scale": batches.scale}
    if spec.architecture == "jumprelu":
        x = torch.from_numpy(np.load(files["calibration"])).float().to(device)
        report["threshold_factor"] = sae_training.calibrate_thresholds(sae, x, spec.l0)
    folder = work / "saes" / spec.id
    suite.save_sae(sae, spec, folder, training_tokens=recipe.steps_of(spec) * recipe.batch_tokens)
    report |= suite.health(folder, torch.from_numpy(np.load(files["health"])))
    if spec.architecture == "jumprelu":  # TopK has its L0 by construction
        suite.label_with(report["l0"], folder)
    report["seconds"] = round(time.monotonic() - begun, 1)
    _write(work / "reports" / f"{spec.id}.json", report)
    return report


def assemble(work: Path, recipe: LabRecipe) -> Path:
    """Put model, SAEs and manifest together under ``weights/`` in the work folder, and return that folder.

    Of SAEs that were trained with several seeds the first goes there; the others stay in ``saes/``.
    """
    target = work / "weights"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work / "model", target / "model", ignore=shutil.ignore_patterns("generation_config.json"))
    reports = []
    for name in (name for name in recipe.suite if suite.SaeSpec.from_id(name).seed == 0):
        shutil.copytree(work / "saes" / name, target / "saes" / name)
        reports.append(json.loads((work / "reports" / f"{name}.json").read_text()))
    model, text_now = (json.loads((work / name).read_text()) for name in ("model.json", "text/report.json"))
    record = {
        "text": model.pop("text", text_now),
        "sae_text": text_now,
        "model": model,
        "saes": reports,
        "recipe": {**asdict(recipe), "activation_skip": activations.SKIP},
    }
    manifest.write_manifest(target, record)
    manifest.verify(target)
    return target


def failed_health(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Return what is wrong with a suite: L0 off its label by over 10 %, 20 % dead latents, or FVU in the wrong order."""
    problems = []
    found = {suite.SaeSpec.from_id(report["id"]): report for report in reports}
    for spec, report in found.items():
        if abs(report["l0"] / spec.l0 - 1) > 0.1:
            problems.append(f"{spec.id}: L0 is {report['l0']:.2f}")
        if report["dead_fraction"] >= 0.2:
            problems.append(f"{spec.id}: {report['dead_fraction']:.0%} of its latents are dead")
        for other, better in found.items():
            same = (other.component, other.layer, other.architecture) == (spec.component, spec.layer, spec.architecture)
            wider = other.l0 == spec.l0 and other.d_sae > spec.d_sae
            denser = other.d_sae == spec.d_sae and other.l0 > spec.l0
            if same and (wider or denser) and better["fvu"] >= report["fvu"]:
                problems.append(
                    f"{other.id}: FVU {better['fvu']:.4f} is not below that of {spec.id}, {report['fvu']:.4f}"
                )
    return problems


def _write(file: Path, record: Any) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    os.replace(temporary, file)
