"""Cost of gradient pursuit: the dense formulation against `dm_utils.gradient_pursuit`, on the same arrays in one run.

Ours selects its atoms from float32 products, as before, or from a screen in bfloat16 or int8; "auto" takes the fastest.

The dense formulation is the algorithm as it is usually written: one weight per token and latent, and three products
with the dictionary per step (residual, correlations, direction). All are timed in alternating repeats and the medians
printed (on one thread of processor time, so that other work on the machine counts less), with the peak of the memory that
each allocates beyond its inputs, and how far the chosen supports agree.

    python benchmarks/pursuit.py                    both cases
    python benchmarks/pursuit.py --case small --repeats 9 --device cuda
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import clock, processor, write_table
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from dm_utils.maths.pursuit import gradient_pursuit

CASES = {
    "small": {"d": 256, "n_atom": 4096, "n_token": 256, "l0": 40},
    "large": {"d": 2304, "n_atom": 16384, "n_token": 512, "l0": 40},
}
PEAK_TOKENS = 64  # for the peak of the memory and the supports
Support = Tensor  # bool [token, atom]


def planted_problem(d: int, n_atom: int, n_token: int, l0: int, device: str) -> tuple[Tensor, Tensor]:
    """Return tokens (sparse sums plus a tenth of noise) and unit atoms that lean to one side, as decoders do."""
    rng = torch.Generator().manual_seed(0)
    atoms = torch.randn(n_atom, d, generator=rng) + 0.7 * torch.randn(1, d, generator=rng)
    dictionary = torch.nn.functional.normalize(atoms, dim=1)
    active = torch.rand(n_token, n_atom, generator=rng) < 1.5 * l0 / n_atom
    x = (torch.rand(n_token, n_atom, generator=rng) * active) @ dictionary
    noise = torch.randn(n_token, d, generator=rng) * (0.1 / d) ** 0.5
    return (x + noise * x.norm(dim=1, keepdim=True)).to(device), dictionary.to(device)


@torch.no_grad()
def dense_pursuit(x: Tensor, dictionary: Tensor, l0: int, decode: bool = True) -> tuple[Support, Tensor]:
    """Pursue with dense weights; return the support and the reconstruction."""
    weights = x.new_zeros(len(x), len(dictionary))
    support = torch.zeros_like(weights, dtype=torch.bool)
    for _ in range(l0):
        residual = x - weights @ dictionary
        correlations = residual @ dictionary.T
        atom = correlations.masked_fill(support, -torch.inf).argmax(1)
        support.scatter_(1, atom[:, None], True)
        gradient = correlations * support
        direction = gradient @ dictionary
        size = (residual * direction).sum(1) / direction.square().sum(1)
        weights = (weights + size[:, None] * gradient).clamp_(min=0)
    return support, weights @ dictionary if decode else weights


def sparse_pursuit(
    x: Tensor, dictionary: Tensor, l0: int, decode: bool = True, precision: torch.dtype | None = None
) -> tuple[Support, Tensor]:
    """Pursue with ours, selecting in one precision; return the same two things."""
    codes = gradient_pursuit(x, dictionary, l0, precision=precision)
    if not decode:
        return codes.indices, codes.weights
    support = torch.zeros(len(x), len(dictionary), dtype=torch.bool, device=x.device)
    return support.scatter_(1, codes.indices, True), codes.decode(dictionary)


def strided(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among values that hold memory: of a sparse one, its three parts."""
    for value in values:
        if isinstance(value, Tensor) and value.layout == torch.sparse_csr:
            yield from (value.crow_indices(), value.col_indices(), value.values())
        elif isinstance(value, Tensor):
            yield value


class PeakMemory(TorchDispatchMode):
    """Record the largest sum of bytes of the tensors alive at once, among those created inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._alive = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        given = {t.untyped_storage().data_ptr() for t in strided(args)}
        result = func(*args, **(kwargs or {}))
        for tensor in strided(result if isinstance(result, (tuple, list)) else (result,)):
            if tensor.untyped_storage().data_ptr() not in given:
                storage = tensor.untyped_storage()
                self._alive[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def seconds(run: Callable[[], object], device: str) -> float:
    start = clock(torch.device(device))
    run()
    return clock(torch.device(device)) - start


def compare(name: str, repeats: int, device: str, tokens: int | None = None) -> list[dict[str, Any]]:
    """Time both on one case, or on fewer tokens of it, print a table and return its rows."""
    case = CASES[name] | ({"n_token": tokens} if tokens else {})
    x, dictionary = planted_problem(**case, device=device)
    ways = {"dense": None, "float32": None, "bfloat16": torch.bfloat16, "int8": torch.int8}
    runs = {way: dense_pursuit if way == "dense" else partial(sparse_pursuit, precision=p) for way, p in ways.items()}
    found, peak = {}, {}
    for method, run in runs.items():  # also warms up
        with PeakMemory() as memory:
            found[method] = run(x[:PEAK_TOKENS], dictionary, case["l0"])
        peak[method] = memory.peak
    times: dict[str, list[float]] = {method: [] for method in runs}
    for _ in range(repeats):
        for method, run in runs.items():
            times[method].append(seconds(lambda run=run: run(x, dictionary, case["l0"], False), device))

    print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in case.items()))
    few, rows = x[:PEAK_TOKENS], []
    for method in runs:
        fvu = (few - found[method][1]).square().sum() / (few - few.mean(0)).square().sum()
        ratio = statistics.median(a / b for a, b in zip(times["dense"], times[method], strict=True))
        alike = (found["float32"][0] == found[method][0]).all(1).float().mean()
        print(
            f"  {method:8}{1e3 * statistics.median(times[method]):9.0f} ms  dense / it {ratio:6.2f}  "
            f"{peak[method] / 2**20:8.1f} MiB  FVU {fvu:.5f}  tokens with the atoms of float32 {alike:.5f}",
            flush=True,
        )
        said = f"pursuit, {case['n_atom']:,} latents in {case['d']:,} dimensions, {case['n_token']} tokens"
        numbers = {"seconds": statistics.median(times[method]), "released/": ratio, "alike": float(alike)}
        rows.append({"case": said, "way": method} | {key: round(value, 4) for key, value in numbers.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, help="instead of each case's: a shard")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", type=Path, help="a CSV file to write the rows to, after each case")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {processor(arguments.device)}")
    rows: list[dict[str, Any]] = []
    for name in CASES if arguments.case == "all" else [arguments.case]:
        rows += compare(name, arguments.repeats, arguments.device, arguments.tokens)
        if arguments.table:
            write_table(arguments.table, rows, arguments.device)


if __name__ == "__main__":
    main()
