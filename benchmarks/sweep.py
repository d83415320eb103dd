"""The released procedure against the one-pass engine, in one process and on the same arrays.

(a) *Released*: each SAE on its own. Dense encode and decode, the error vectors written to disk, one least-squares
    solve per SAE and target (the error's norm, Eq. 10, and its vector, Eq. 11).
(b) *Engine*: moments of x factorised once, then per SAE one encode and sparse decodes; intervals included.
(c) *Certified*: the engine with the encode screened in low precision and rechecked (`dm_utils.maths.certified`).

On one thread processor time is measured, so that other work on the machine counts less. Which precision is the faster one is
asked before the clock starts: a process asks once for all SAEs of a size. A case may be a shard, its first tokens: every
way's time grows in proportion to them, but for one solve per SAE, so ratios of a shard are those of the whole within that.

All report the same held-out R², (b) and (c) to 1e-6 but for a few tokens: where two latents compete for the last place and differ
by less than a dense float32 product errs by, it may take the wrong one. Where (b) and (c) differ by more, these tokens are
counted, float64 says who is right, and the difference is taken again with the dense product's codes for them.

The released code solves on a GPU, where `torch.linalg.lstsq` has one driver, gels; so has it here. The default driver of a CPU,
gelsy, would drop every direction whose singular value is below eps × tokens of the largest, in float32 about 1 % of it, and lose
up to 0.2 of R² on the lab. Run `python benchmarks/sweep.py`; `--help` lists the cases.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from record import clock, write_table
from torch import Tensor

from dm_utils.maths.certified import PROBE, certified_codes, faster
from dm_utils.maths.codes import Codes, decode, dense_codes
from dm_utils.maths.decomposition import Decomposer
from dm_utils.maths.encoder import encoder_of
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Split

ALIKE = 1e-6  # of the R² of two ways to the same codes
TIED = 1e-4  # of a token: a reconstruction that differs by more has another latent in it
METRICS = ("r2_error_norm", "r2_error_vector", "fvu_nonlinear")
Case = tuple[str, Tensor, Split, list[Any]]


class PeakMemory:
    """Peak resident memory of a block above its start, sampled every 5 ms."""

    def __enter__(self) -> Self:
        self.start = self.peak = self._resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self._resident())

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    @property
    def mebibytes(self) -> float:
        return (self.peak - self.start) / 2**20


@torch.inference_mode()
def released(x: Tensor, split: Split, suite: list[Any], folder: Path) -> list[dict[str, float]]:
    """Every SAE from scratch: the procedure of the paper's released code, as its text describes it."""
    return [_released_one(x, split, sae, folder / f"{i}.npy") for i, sae in enumerate(suite)]


def _released_one(x: Tensor, split: Split, sae: Any, path: Path, block: int = 4096) -> dict[str, float]:
    np.save(path, torch.cat([b - sae.decode(sae.encode(b)) for b in x.split(block)]).cpu().numpy())
    error = torch.from_numpy(np.load(path)).to(x.device)
    fit, held = split.fit.to(x.device), ~split.fit.to(x.device)
    design = torch.cat([x, x.new_ones(len(x), 1)], 1)
    norm = error.square().sum(1, keepdim=True)
    norm_left = norm[held] - design[held] @ torch.linalg.lstsq(design[fit], norm[fit], driver="gels").solution
    left = error[held] - design[held] @ torch.linalg.lstsq(design[fit], error[fit], driver="gels").solution
    varied = {"norm": norm[held], "error": error[held], "x": x[held]}
    tss = {name: (v - v.mean(0)).square().sum(0) for name, v in varied.items()}
    return {
        "r2_error_norm": 1 - float(norm_left.square().sum() / tss["norm"]),
        "r2_error_vector": float((1 - left.square().sum(0) / tss["error"]).mean()),
        "fvu_nonlinear": float(left.square().sum() / tss["x"].sum()),
    }


def certified_encode(sae: Any, x: Tensor) -> Codes:
    """Certified codes, with the SAE's encoder read once."""
    if not hasattr(sae, "certified"):
        sae.certified = encoder_of(sae)
    return certified_codes(x, *sae.certified)


@torch.inference_mode()
def certified(x: Tensor, split: Split, suite: list[Any], folder: Path) -> list[dict[str, float]]:
    """The engine on certified codes; the low-precision copies are made within the time measured."""
    rows = engine(x, split, suite, folder, certified_encode)
    for sae in suite:
        del sae.certified
    return rows


@torch.inference_mode()
def engine(
    x: Tensor, split: Split, suite: list[Any], folder: Path, encode: Callable[[Any, Tensor], Codes] = dense_codes
) -> list[dict[str, float]]:
    """One design for all; what is written is a row of scalars per token and SAE."""
    decomposer = Decomposer(Design(x, split))
    rows = []
    for i, sae in enumerate(suite):
        kept: dict[int, Codes] = {}

        def sae_out(
            rows: slice,
            block: Tensor,
            sae: Any = sae,
            kept: dict[int, Codes] = kept,
        ) -> Tensor:
            if rows.start not in kept:
                kept[rows.start] = encode(sae, block)
            return decode(sae, kept[rows.start])

        result = decomposer.run(sae_out)
        np.savez(
            folder / f"{i}.npz",
            **{name: scalar.numpy() for name, scalar in result.scalars.items()},
        )
        rows.append({name: result.metrics[name].value for name in METRICS})
    return rows


def far(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The tokens [token] of which two reconstructions differ by a latent."""
    return torch.linalg.vector_norm(one - other, dim=1) > TIED * torch.linalg.vector_norm(x, dim=1)


@torch.inference_mode()
def but_for_ties(
    x: Tensor, split: Split, suite: list[Any], rows: list[dict[str, float]]
) -> tuple[int, int, int, float]:
    """Tokens to which certified codes give other latents than a dense product, and to which float64 does; ties counted.

    Last, the largest difference from `rows` where those tokens have the dense product's codes.
    """
    decomposer, other, wrong, ties, worst = Decomposer(Design(x, split)), 0, 0, 0, 0.0
    for sae, row in zip(suite, rows, strict=True):
        codes = certified_codes(x, *encoder_of(sae))
        merged, dense = decode(sae, codes), decode(sae, dense_codes(sae, x))
        differ = far(x, merged, dense).nonzero().squeeze(1)
        if len(differ):
            exact, some = copy.deepcopy(sae).double(), x[differ].double()
            wrong += int(far(some, merged[differ], decode(exact, dense_codes(exact, some))).sum())
        merged[differ] = dense[differ]
        other, ties = other + len(differ), ties + codes.ties
        found = decomposer.run(lambda rows, _, merged=merged: merged[rows]).metrics
        worst = max(worst, *(abs(found[name].value - row[name]) for name in METRICS))
    return other, wrong, ties, worst


def lab_case(limit: int | None, tokens: int | None = None) -> Case:
    """The lab's whole suite at its middle layer, or its first SAEs, on all tokens or the first."""
    from dm_utils.engine.study import Study

    study = Study("lab")
    site = study.site()
    refs, x = study.saes()[:limit], site.x[:tokens].clone()
    split = Split(site.split.fit[: len(x)], site.split.group[: len(x)])
    name = f"lab: {len(refs)} SAEs, {len(x)} of {len(site.x)} tokens"
    return name, x, split, [study.load_sae(r) for r in refs]


def gemma_case(widths: list[int], n_tokens: int, d: int = 2304, l0: int = 60) -> Case:
    """Random JumpReLU SAEs at Gemma 2 2B's size, on sparse sums of their own latents plus noise."""
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    generator = torch.Generator().manual_seed(0)
    suite, x = [], torch.randn(n_tokens, d, generator=generator)
    for width in widths:
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d, d_sae=width, dtype="float32", device="cpu"))
        with torch.no_grad():
            sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(width, d, generator=generator), dim=1))
            sae.W_enc.copy_(sae.W_dec.T)
            active = torch.randint(width, (n_tokens, l0), generator=generator)
            x += torch.nn.functional.embedding_bag(active, sae.W_dec, mode="sum") * 20
        suite.append(sae.eval().requires_grad_(False))
    for sae in suite:
        pre = x[:512] @ sae.W_enc
        sae.threshold.data.fill_(float(torch.topk(pre, l0, dim=1).values[:, -1].quantile(0.5)))  # between two values
    split = Split.random(torch.arange(n_tokens) * 32 // n_tokens)
    names = ", ".join(f"{width:,}" for width in widths)
    return f"Gemma 2 2B size: d {d}, widths {names}, {n_tokens} tokens", x, split, suite


def timed(run: Callable[..., list[dict[str, float]]], case: Case) -> tuple[float, float, float, list[dict[str, float]]]:
    """Seconds, peak MiB above the start, MiB left on disk, and the results."""
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as memory:
        start = clock(case[1].device)
        rows = run(*case[1:], Path(folder))
        seconds = clock(case[1].device) - start
        disk = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
    return seconds, memory.mebibytes, disk, rows


def compare(case: Case, repeats: int, rows_of_all: list[dict[str, Any]]) -> bool:
    """Run the ways in turn and print what each took; True when their R² agree to 1e-4. A row for each is added."""
    for sae in case[3]:
        if (made := encoder_of(sae)) is not None:
            faster(case[1][:PROBE], *made)
    ways = {"released": released, "engine": engine, "certified": certified}
    runs = [{name: timed(run, case) for name, run in ways.items()} for _ in range(repeats)]
    print(f"\n{case[0]}")
    print(f"{'':10}{'seconds':>10}{'peak MiB':>10}{'disk MiB':>10}{'released /':>12}{'engine /':>10}")
    for name in ways:
        seconds, memory, disk = (statistics.median(run[name][i] for run in runs) for i in range(3))
        ratios = [statistics.median(run[other][0] / run[name][0] for run in runs) for other in ("released", "engine")]
        print(f"{name:10}{seconds:10.2f}{memory:10.0f}{disk:10.1f}{ratios[0]:11.2f}x{ratios[1]:9.2f}x", flush=True)
        numbers = {
            "seconds": seconds,
            "peak MiB": memory,
            "disk MiB": disk,
            "released/": ratios[0],
            "engine/": ratios[1],
        }
        rows_of_all.append({"case": case[0], "way": name} | {key: round(value, 2) for key, value in numbers.items()})
    rows = {name: runs[0][name][3] for name in ways}
    worst = {
        name: max(abs(a[m] - b[m]) for a, b in zip(rows[name], rows["engine"], strict=True) for m in METRICS)
        for name in ("released", "certified")
    }
    print(f"largest difference in {', '.join(METRICS)} from the engine's: {worst}")
    if worst["certified"] >= ALIKE:
        other, wrong, ties, worst["certified"] = but_for_ties(*case[1:], rows["engine"])
        print(
            f"{other} tokens have other latents than a dense product gives them, {wrong} other ones than float64; {ties} ties"
        )
        print(f"without those tokens certified codes differ by at most {worst['certified']:.1e}")
        return worst["released"] < 1e-4 and worst["certified"] < ALIKE and wrong <= ties
    return worst["released"] < 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["lab", "gemma", "both"], default="both")
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        help="runs of each way, alternating; medians are printed",
    )
    parser.add_argument("--limit", type=int, help="only the first SAEs of the lab's suite")
    parser.add_argument("--lab-tokens", type=int, help="only the first tokens of the lab's site: a shard")
    parser.add_argument(
        "--tokens", type=int, default=4096, help="tokens of the Gemma-sized case, a shard: 3,800 or more"
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[16384, 65536], help="of the Gemma-sized case")
    parser.add_argument("--table", type=Path, help="a CSV file to write the rows to, after each case")
    args = parser.parse_args()
    agree: list[bool] = []
    rows: list[dict[str, Any]] = []
    cases: list[Callable[[], Case]] = []
    if args.case in ("lab", "both"):
        cases.append(lambda: lab_case(args.limit, args.lab_tokens))
    if args.case in ("gemma", "both"):
        cases += [partial(gemma_case, [width], args.tokens) for width in args.widths]
    for case in cases:
        agree.append(compare(case(), args.repeats, rows))
        if args.table:
            write_table(args.table, rows, "cpu")
    return 0 if all(agree) else 1


if __name__ == "__main__":
    raise SystemExit(main())
