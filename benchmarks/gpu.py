"""One site of Section 4 and Section 6.1 at the sizes of Gemma 2 and Gemma Scope: time, share of the peak, memory.

A Gemma-2-shaped model with random weights runs up to the site; JumpReLU SAEs whose atoms are noisy activations stand in
for trained ones. Nothing is downloaded. The encode is timed dense in float32, certified, and as its bfloat16 product alone,
which is the floor. `--table` writes the stages as CSV, the device named. For each stage: seconds, the share of what a plain
matrix product reaches on this device in this run, and the peak of the memory. Then the ratio to the released procedure
(`sweep.py`) on the same arrays, and how far TF32 products and a bfloat16 model move R² from float32.

    python benchmarks/gpu.py                          Gemma 2 2B, SAEs of 16k to 1M latents, on a GPU
    python benchmarks/gpu.py --shape 9b --widths 16384 131072
    python benchmarks/gpu.py --device cpu --shape small --widths 512 2048
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sweep import PeakMemory, _released_one, engine
from torch import Tensor

from dm_utils.chapters.s06_1_pursuit.experiment import pursue
from dm_utils.maths.certified import certified_codes
from dm_utils.maths.codes import Codes, decode
from dm_utils.maths.decomposition import Decomposer
from dm_utils.maths.encoder import encoder_of
from dm_utils.maths.encoding import encode, prefer
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Split
from dm_utils.world import models, saes
from dm_utils.world.needs import shape_of
from dm_utils.world.profiles import load_profile


def shape(profile: str) -> tuple[int, ...]:
    """Layers, d_model, heads, key-value heads, d_head, d_mlp, vocabulary, the paper's layer."""
    named = load_profile(profile)
    s = shape_of(named)
    return (s.n_layers, s.d_model, s.heads, s.key_heads, s.d_head, s.d_mlp, s.vocabulary, named.layer)


SHAPES = {"2b": shape("gemma-2-2b"), "9b": shape("gemma-2-9b"), "small": (4, 256, 4, 2, 64, 1024, 4096, 2)}
METRICS = ("r2_error_norm", "r2_error_vector", "fvu", "fvu_nonlinear")
TOLERANCE, CERTIFIED = 1e-3, 1e-6  # of R²: from other products; from values that float32 rounds otherwise
ROUNDINGS = 6  # of the residual stream's size in a block of Gemma 2: two outputs, two norms of them, two sums
DENSE = 2**28  # latents that the released procedure holds at once: 1 GiB of float32


class Check(NamedTuple):
    """How far something lies from its reference, and how far it may."""

    difference: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether it is as near as it may be; NaN is not."""
        return self.difference < self.allowed


@dataclass
class Clock:
    """Times stages on a device and prints each with its share of the peak of matrix products and its memory."""

    device: torch.device
    peak: dict[str, float] = field(default_factory=dict)  # FLOP/s by precision
    seconds: dict[str, float] = field(default_factory=dict)
    rows: list[tuple[str, str, float, float]] = field(default_factory=list)  # group, stage, seconds, GiB
    group: str = ""

    def measure_peak(self, n: int, dtype: torch.dtype) -> float:
        """What a square matrix product of size n reaches: the best of five."""
        a, best = torch.randn(n, n, device=self.device, dtype=dtype), 0.0
        for _ in range(5):
            start = self._now()
            a @ a
            best = max(best, 2 * n**3 / (self._now() - start))
        return best

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str, flops: float, precision: str = "float32") -> Iterator[None]:
        """Time what runs inside and print a line; `flops` counts its matrix products."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        with PeakMemory() as host:
            start = self._now()
            yield
            taken = self.seconds[name] = self._now() - start
        memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else host.mebibytes / 2**10
        self.rows.append((self.group, name, taken, memory))
        share = f"{flops / taken / self.peak[precision]:7.1%}" if flops else "      –"
        print(f"  {name:34}{taken:10.3f} s {share} of {precision:9}{memory:8.2f} GiB", flush=True)


def random_model(shape: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A Gemma 2 of this shape with random weights, on the bridge, as the profiles load it; the same for every dtype."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

    layers, d, heads, kv, d_head, d_mlp, vocabulary, _ = SHAPES[shape]
    sizes = {"num_hidden_layers": layers, "hidden_size": d, "num_attention_heads": heads, "num_key_value_heads": kv}
    sizes |= {"head_dim": d_head, "intermediate_size": d_mlp, "vocab_size": vocabulary}
    config = Gemma2Config(**sizes, architectures=["Gemma2ForCausalLM"])
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    with torch.device(device):  # drawn in bfloat16, so that both precisions hold the same weights
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = Gemma2ForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
    model = model.to(dtype).eval()
    words = Tokenizer(WordLevel({"<unk>": 0, "<bos>": 1, "<eos>": 2}, unk_token="<unk>"))
    marks = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model, device=device, dtype=dtype)


def site(model: Any, tokens: Tensor, layer: int, skip: int, batch: int) -> Tensor:
    """The activations of the kept positions, float32 [token, d], on the model's device."""
    hook = f"blocks.{layer}.hook_resid_post"
    return torch.cat(
        [b[hook][:, skip:-1].flatten(0, 1).float() for b in models.activations(model, tokens, [hook], batch)]
    )


def forward_flops(shape: str, n_tokens: int) -> float:
    """Matrix products of the blocks up to the paper's layer, attention's scores left out."""
    _, d, heads, kv, d_head, d_mlp, _, layer = SHAPES[shape]
    return 2.0 * n_tokens * (layer + 1) * d * (d_head * (2 * heads + 2 * kv) + 3 * d_mlp)


@torch.no_grad()
def stand_in(x: Tensor, width: int, l0: int) -> Any:
    """A JumpReLU SAE whose atoms are activations with noise, its threshold set for a mean L0 and its scale to fit."""
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    d, rng = x.shape[1], torch.Generator(x.device).manual_seed(width)
    config = JumpReLUSAEConfig(d_in=d, d_sae=width, dtype="float32", device=str(x.device), apply_b_dec_to_input=True)
    sae = JumpReLUSAE(config).eval().requires_grad_(False)
    mean, few = x.mean(0), x[torch.randint(len(x), (512,), generator=rng, device=x.device)]
    spread = (few - mean).std()
    for rows in torch.arange(width, device=x.device).split(65536):
        drawn = x[torch.randint(len(x), (len(rows),), generator=rng, device=x.device)] - mean
        drawn += spread * torch.randn(drawn.shape, generator=rng, device=x.device)
        sae.W_dec[rows] = torch.nn.functional.normalize(drawn, dim=1)
    sae.W_enc.copy_(sae.W_dec.T)
    sae.b_dec.copy_(mean)
    sae.b_enc.zero_()
    last = torch.topk((few - mean) @ sae.W_enc, l0, dim=1).values[:, -1]
    sae.threshold.fill_(float(last.quantile(0.5)))  # between two values: none stands at the threshold
    made = saes.reconstruct(sae, few) - mean
    scale = (made * (few - mean)).sum() / made.square().sum().clamp_min(1e-12)
    sae.W_dec.mul_(scale)
    return sae


@torch.inference_mode()
def decompose(decomposer: Decomposer, sae: Any) -> tuple[dict[str, float], float]:
    """Section 4 of one SAE as the study does it: one encode, two decodes. Returns the metrics and the mean L0."""
    kept: dict[int, Codes] = {}

    def sae_out(rows: slice, x: Tensor) -> Tensor:
        if rows.start not in kept:
            kept[rows.start] = encode(sae, x)
        return decode(sae, kept[rows.start])

    result = decomposer.run(sae_out)
    l0 = sum(len(code.indices) for code in kept.values()) / len(decomposer.design)
    return {name: result.metrics[name].value for name in METRICS}, l0


def worst(found: dict[str, float], reference: dict[str, float]) -> float:
    """The largest difference of the metrics."""
    return max(abs(found[name] - reference[name]) for name in METRICS)


def rounding_check(x: dict[str, Tensor], layer: int) -> Check:
    """The activations of the bfloat16 model: independent roundings, each by at most 2⁻⁸ of the stream, add in squares."""
    moved = (x["bfloat16"] - x["float32"]).norm() / x["float32"].norm()
    return Check(float(moved), 2.0**-8 * math.sqrt(ROUNDINGS * (layer + 1) + 2))


def rounding_allowance(sae: Any, x: dict[str, Tensor], held: Tensor) -> float:
    """How far the bfloat16 model's roundings may move R² on this many tokens: η² + 3 η / √n.

    They move each token's squared error norm, by a share η of its deviation that is measured. To first order R² then moves
    by −2 (r − (1 − R²) q)·δ / ‖q‖², with r the residual, q the centred target, δ its change: of deviation
    2 η √(R² (1 − R²) / n) ≤ η / √n where δ is independent of them. To second order it falls by at most η².
    """
    norms = [(x[name] - saes.reconstruct(sae, x[name])).square().sum(1)[held] for name in ("float32", "bfloat16")]
    eta = float((norms[1] - norms[0]).norm() / (norms[0] - norms[0].mean()).norm())
    return eta**2 + 3 * eta / math.sqrt(int(held.sum()))


def free(device: torch.device) -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def run(args: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, Check]:
    """Run every stage; return the largest difference of each check's metrics from float32 or the released procedure."""
    device, layer = torch.device(args.device), SHAPES[args.shape][-1]
    cuda, d = device.type == "cuda", SHAPES[args.shape][1]
    torch.set_float32_matmul_precision("highest")
    clock, n = Clock(device), 8192 if cuda else 1024
    clock.peak = {"float32": clock.measure_peak(n, torch.float32), "bfloat16": clock.measure_peak(n, torch.bfloat16)}
    torch.set_float32_matmul_precision("high")
    clock.peak["tf32"] = clock.measure_peak(n, torch.float32)
    torch.set_float32_matmul_precision("highest")
    say(
        f"{torch.cuda.get_device_name(device) if cuda else 'CPU'}, torch {torch.__version__}, Gemma 2 {args.shape}, layer {layer}"
    )
    say("matrix products: " + ", ".join(f"{name} {rate / 1e12:.2f} TFLOP/s" for name, rate in clock.peak.items()))

    tokens = torch.randint(
        3, SHAPES[args.shape][6], (args.contexts, args.ctx_len), generator=torch.Generator().manual_seed(0)
    )
    kept = args.contexts * (args.ctx_len - 1 - args.skip)
    x = {}
    for dtype in (torch.float32, torch.bfloat16):
        name, model = str(dtype).removeprefix("torch."), random_model(args.shape, dtype, device)
        with clock.stage(f"activations, {name} model", forward_flops(args.shape, tokens.numel()), name):
            x[name] = site(model, tokens, layer, args.skip, args.batch)
        del model
        free(device)
    split = Split.random(torch.arange(args.contexts).repeat_interleave(args.ctx_len - 1 - args.skip))
    fit = int(split.fit.sum())
    with clock.stage("moments and factorisation", 2.0 * fit * d**2):
        decomposer = Decomposer(Design(x["float32"], split, block=args.block), n_bootstrap=args.n_bootstrap)
    differences = {"bfloat16 activations": rounding_check(x, layer)}
    for width in args.widths:
        say(f"SAE of {width:,} latents, {kept:,} tokens")
        clock.group = f"{width:,} latents"
        sae = stand_in(x["float32"], width, args.l0)
        with clock.stage("encode", 2.0 * kept * d * width):
            for block in x["float32"].split(args.block):
                encode(sae, block)
        encode_stages(clock, sae, x["float32"], args.block, say)
        with clock.stage("Section 4: encode, decode, maps", 2.0 * kept * d * width + 2.0 * (fit + kept) * d**2):
            reference, l0 = decompose(decomposer, sae)
        say("  " + ", ".join(f"{name} {value:.4f}" for name, value in reference.items()) + f", L0 {l0:.1f}")
        some = x["float32"][: args.pursuit_tokens]
        with clock.stage(f"Section 6.1: pursuit of {len(some):,} tokens", 2.0 * len(some) * d * width * (l0 + 1)):
            pursue(sae, some)
        differences |= checks(args, clock, decomposer, sae, x, reference, say)
        if args.released_tokens:
            differences |= released(args, clock, x["float32"], sae, say)
        del sae
        free(device)
    if args.table:
        write_table(args.table, clock)
    return differences


@torch.inference_mode()
def encode_stages(clock: Clock, sae: Any, x: Tensor, block: int, say: Callable[[str], None]) -> None:
    """The certified encode, which makes its low-precision copy within its time, and its floor."""
    flops, made, certified = 2.0 * len(x) * sae.W_enc.numel(), encoder_of(sae), []
    if made is None:
        raise ValueError("the stand-in has no encoder that codes can be certified of")
    with clock.stage("encode, certified", flops, "bfloat16"):
        for part in x.split(block):
            certified.append(certified_codes(part, *made, "bfloat16"))
    low, weights = x.bfloat16(), made[0].W_enc.bfloat16()
    with clock.stage("encode, bfloat16 product alone", flops, "bfloat16"):
        for part in low.split(min(block, max(1, DENSE // weights.shape[1]))):
            part @ weights
    counts = [sum(getattr(code, name) for code in certified) for name in ("candidates", "ties")]
    dense, floor = (
        clock.seconds[name] / clock.seconds["encode, certified"]
        for name in ("encode", "encode, bfloat16 product alone")
    )
    say(
        f"  certified: {dense:.2f} times as fast as float32, {1 / floor:.2f} times its floor; {counts[0] / len(x):.1f} "
        f"candidates per token, {counts[1]} ties"
    )


def write_table(path: Path, clock: Clock) -> None:
    """Every stage as a line of CSV, the device in a column of its own."""
    name = torch.cuda.get_device_name(clock.device) if clock.device.type == "cuda" else "CPU"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("device", "group", "stage", "seconds", "gib"))
        writer.writerows((name, *row) for row in clock.rows)


def checks(
    args: argparse.Namespace,
    clock: Clock,
    decomposer: Decomposer,
    sae: Any,
    x: dict[str, Tensor],
    reference: dict[str, float],
    say: Callable[[str], None],
) -> dict[str, Check]:
    """Certified codes, TF32 products and the bfloat16 model against float32: the largest difference of a metric."""
    found, split, width = {}, decomposer.design.split, sae.cfg.d_sae
    flops = 2.0 * len(x["float32"]) * sae.cfg.d_in * width
    prefer(sae, "bfloat16")
    with clock.stage("Section 4, certified codes", flops, "bfloat16"):
        certified = decompose(decomposer, sae)[0]
    prefer(sae, "float32")
    found[f"certified, {width}"] = Check(worst(certified, reference), CERTIFIED)
    for name, values, precision in (("tf32", x["float32"], "high"), ("bfloat16 model", x["bfloat16"], "highest")):
        torch.set_float32_matmul_precision(precision)
        with clock.stage(f"Section 4, {name}", flops, "tf32" if name == "tf32" else "float32"):
            again = Decomposer(Design(values, split, block=args.block), n_bootstrap=args.n_bootstrap)
            difference = worst(decompose(again, sae)[0], reference)
        torch.set_float32_matmul_precision("highest")
        held = ~split.fit.to(values.device)
        check = Check(difference, TOLERANCE if name == "tf32" else rounding_allowance(sae, x, held))
        found[f"{name}, {width}"] = check
        said = "agrees" if check.agrees else "DISAGREES"
        say(f"  {name}: metrics within {difference:.1e} of float32, {check.allowed:.1e} allowed ({said})")
    return found


def released(
    args: argparse.Namespace, clock: Clock, x: Tensor, sae: Any, say: Callable[[str], None]
) -> dict[str, Check]:
    """The released procedure and the engine, each from the activations on, on the same tokens."""
    width, n = sae.cfg.d_sae, min(args.released_tokens, len(x))
    some, split = x[:n], Split.random(torch.arange(n) * 32 // n)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        with clock.stage(f"released procedure, {n:,} tokens", 2.0 * n * sae.cfg.d_in * width * 2):
            theirs = _released_one(some, split, sae, Path(folder) / "error.npy", max(1, min(4096, DENSE // width)))
        with clock.stage(f"engine, {n:,} tokens, intervals", 2.0 * n * sae.cfg.d_in * width):
            ours = engine(some, split, [sae], Path(folder))[0]
    ratio = clock.seconds[f"released procedure, {n:,} tokens"] / clock.seconds[f"engine, {n:,} tokens, intervals"]
    difference = max(abs(theirs[name] - ours[name]) for name in theirs)
    say(f"  released / engine: {ratio:.2f} in time; metrics within {difference:.1e}")
    return {f"released, {width}": Check(difference, TOLERANCE)}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--device", default="cuda")
    found.add_argument("--shape", choices=list(SHAPES), default="2b")
    found.add_argument("--widths", type=int, nargs="+", default=[2**14, 2**16, 2**18, 2**20])
    found.add_argument("--l0", type=int, default=60, help="mean active latents that thresholds are set for")
    found.add_argument("--contexts", type=int, default=300)
    found.add_argument("--ctx-len", type=int, default=1024)
    found.add_argument("--skip", type=int, default=200)
    found.add_argument("--batch", type=int, default=2, help="contexts per forward pass")
    found.add_argument("--block", type=int, default=8192, help="tokens per block of the engine")
    found.add_argument("--n-bootstrap", type=int, default=1000)
    found.add_argument("--pursuit-tokens", type=int, default=2048)
    found.add_argument("--table", type=Path, help="a CSV file to write the stages to")
    found.add_argument("--released-tokens", type=int, default=16384, help="0 leaves the released procedure out")
    return found


def main() -> int:
    args = parser().parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print(
            "no GPU here; the same code runs with --device cpu --shape small --widths 512 2048 --contexts 40 --ctx-len 256"
        )
        return 2
    return 0 if all(check.agrees for check in run(args).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
