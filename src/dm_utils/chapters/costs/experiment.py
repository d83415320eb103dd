"""What the steps of a study cost: their floors, what the low-precision bound leaves in question, and seconds here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

import dm_utils
from dm_utils.engine.store import Arrays
from dm_utils.engine.study import Study
from dm_utils.maths.certified import certified_codes, processor_clock, screen_of
from dm_utils.maths.codes import decode, dense_codes, sparse_decode_applies
from dm_utils.maths.encoder import encoder_of
from dm_utils.maths.products import accumulates
from dm_utils.world import models
from dm_utils.world.profile import Profile
from dm_utils.world.sae_ref import SaeRef

BENCHMARKS = Path(dm_utils.__file__).parents[2] / "benchmarks/results"
MODEL = "model, up to the site"
COLUMNS = ["sae_id", "hook_name", "architecture", "d_sae", "l0", "near_l0", "active", "candidates", "share"]


def floors(profile: Profile, width: int, l0: float) -> pd.DataFrame:
    """The least that each step does for one SAE of a profile's site: GFLOP of products, and GB that must move once.

    Columns `step, of, gflop, gb`; `of` says whether the step is paid once per site or for each SAE.
    """
    n, d = profile.n_contexts * profile.kept_per_context, profile.d_model
    fit = n * profile.fit_fraction
    x, weights = 4 * n * d, 4 * d * width
    rows = [
        ("moments of the activations", "site", 2 * fit * d**2, x),
        ("encode, dense in float32", "SAE", 2 * n * d * width, x + weights),
        ("encode, certified: the bfloat16 product", "SAE", 2 * n * d * width, x / 2 + weights / 2),
        ("decode, only the active latents", "SAE", 2 * n * l0 * d, x + weights + 8 * n * l0),
        ("linear maps: fit and apply", "SAE", 2 * (fit + n) * d**2, 2 * x),
    ]
    table = pd.DataFrame(rows, columns=["step", "of", "gflop", "gb"])
    return table.assign(gflop=table["gflop"] / 1e9, gb=table["gb"] / 1e9)


def in_question(study: Study, refs: Sequence[SaeRef], n_tokens: int) -> pd.DataFrame:
    """How many pre-activations of a token the bfloat16 bound leaves in question, and how many of those are active.

    One row per SAE whose codes can be certified, on the first `n_tokens` tokens of its site; `share` is the largest error
    over its bound. Kept in the store.
    """
    rows = [_question(study, ref, n_tokens) for ref in tqdm(refs, desc="SAEs", unit="SAE", leave=False)]
    found = pd.DataFrame([row for row in rows if row is not None], columns=COLUMNS)
    return found.assign(ratio=found["candidates"] / found["active"])


def _question(study: Study, ref: SaeRef, n_tokens: int) -> dict[str, Any] | None:
    def compute() -> tuple[Any, Arrays]:
        sae = study.load_sae(ref)
        if (made := encoder_of(sae)) is None:
            return None, {}
        encoder, activation = made
        x = study.site(ref.layer, ref.component).x[:n_tokens].to(sae.W_dec.device)
        y = encoder.inputs(x)
        screen, pairs = screen_of(encoder, activation), 0
        for block in y.split(512):
            found = screen.candidates(block, activation.k, block.shape[0] * ref.d_sae)
            pairs += len(found[0]) if found else 0
        counts = {"candidates": pairs / len(y), "active": len(dense_codes(sae, x).indices) / len(y)}
        return counts | {"share": worst_share(y[:64], encoder.W_enc)}, {}

    key = {"of": study.result_key(ref), "n_tokens": n_tokens}
    counts = study.store.kept("in_question", key, compute, sources=(__name__,))[0]
    if counts is None:
        return None
    near = 2 ** round(math.log2(ref.l0))
    fields = {name: getattr(ref, name) for name in ("hook_name", "architecture", "d_sae", "l0")}
    return {"sae_id": ref.id, **fields, "near_l0": near, **counts}


def worst_share(y: Tensor, W: Tensor) -> float:
    """The largest error of a bfloat16 product over its bound, for tokens y [token, d] and weights W [d, latent]."""
    y_low, W_low = y.bfloat16().float(), W.bfloat16().float()
    error = ((y_low @ W_low).double() - y.double() @ W.double()).abs()
    lost = (y_low - y).norm(dim=1)[:, None] * W.norm(dim=0) + y_low.norm(dim=1)[:, None] * (W_low - W).norm(dim=0)
    gamma = (len(W) + 8) * 2.0**-23
    bound = lost + gamma * y_low.norm(dim=1)[:, None] * W_low.norm(dim=0)
    return float((error / bound).max())


@torch.inference_mode()
def stage_times(study: Study, ref: SaeRef, n_contexts: int = 16, repeats: int = 3) -> pd.DataFrame:
    """Microseconds of processor time per token of each stage, the median of `repeats` in turn after one that warms.

    Columns `stage, us`; on a GPU plain time. These are measured anew on each run, and recorded nowhere.
    """
    sae, site, p = study.load_sae(ref), study.site(ref.layer, ref.component), study.profile
    device, tokens = sae.W_dec.device, study.contexts[:n_contexts]
    x = site.x[: n_contexts * p.kept_per_context].to(device)
    error_map, made = study.error_map(ref), encoder_of(sae)
    runs: dict[str, tuple[Callable[[], object], int]] = {
        MODEL: (
            lambda: list(models.activations(study.model, tokens, [site.hook_name], n_contexts)),
            tokens.numel(),
        ),
        "encode, dense float32": (lambda: dense_codes(sae, x), len(x)),
    }
    if made is not None:
        encoder, activation = made
        low, weights = encoder.inputs(x).bfloat16(), encoder.W_enc.bfloat16()
        runs["encode, certified"] = (lambda: certified_codes(x, encoder, activation, "bfloat16"), len(x))
        runs["the bfloat16 product alone"] = (lambda: [block @ weights for block in low.split(512)], len(x))
    if sparse_decode_applies(sae):
        code = dense_codes(sae, x)
        runs["decode, active latents"] = (lambda: decode(sae, code), len(x))
    runs["linear error, applied"] = (lambda: error_map(x), len(x))
    rows = [(stage, 1e6 * _median(run, device, repeats) / count) for stage, (run, count) in runs.items()]
    return pd.DataFrame(rows, columns=["stage", "us"])


def _median(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    now, taken = processor_clock(device), []
    for _ in range(repeats + 1):
        start = now()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(now() - start)
    return statistics.median(taken[1:])


def partial_sums(W: Tensor) -> dict[str, bool]:
    """Whether low-precision products with weights [d, latent] keep their partial sums on this machine, by format."""
    formats = {"bfloat16": torch.bfloat16, "int8": torch.int8}
    return {name: accumulates(dtype, W.device, *W.shape) for name, dtype in formats.items()}


def processor(device: torch.device) -> str:
    """What this runs on, in words: the processor or GPU, its instructions, and the threads that PyTorch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    n = torch.get_num_threads()
    return f"{(names or ['a CPU'])[0]} ({torch.backends.cpu.get_cpu_capability()}), {n} thread{'s' * (n != 1)}"


def benchmark_rows(folder: Path = BENCHMARKS, name: str = "encode") -> pd.DataFrame:
    """Every committed row of a benchmark, or none where there is no such file (an installed package)."""
    found = [pd.read_csv(path) for path in sorted(folder.glob(f"{name}*.csv"))]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()
