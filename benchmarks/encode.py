"""The encode alone, in one process and on the same arrays: SAELens' dense encode, dense float32 codes, certified codes.

Beside them the floor: the bfloat16 product of the same size alone. Also how many pre-activations per token were computed
again, ties, and how tight the bound is. Repeats alternate; medians of processor time (one thread) or of time are printed,
and written to `--table`, the processor named.

    python benchmarks/encode.py                         the lab's suite and the sizes of Gemma 2 2B
    python benchmarks/encode.py --case gemma --widths 16384 65536 --tokens 1024
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/encode.py      without bfloat16
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import clock, processor, write_table
from sweep import gemma_case, lab_case
from torch import Tensor

from dm_utils.maths.certified import certified_codes, faster, screen_of
from dm_utils.maths.encoder import encoder_of, float_codes

HEAD = "case, by, released s, float32 s, certified s, product s, released/, float32/, /product, candidates, l0, ties, bound"


def alternating(runs: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of each, in turn, after one warming run of each."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = clock(device)
            run()
            if repeat:
                taken[name].append(clock(device) - start)
    return {name: statistics.median(values) for name, values in taken.items()}


@torch.inference_mode()
def row(name: str, sae: Any, x: Tensor, repeats: int, precision: str = "auto") -> dict[str, Any]:
    """One line of the table; the floor's operands are those of the screen."""
    made = encoder_of(sae)
    if made is None:
        raise ValueError(f"{name} has no encoder that codes can be certified of")
    low = made[0].W_enc.bfloat16(), made[0].inputs(x).bfloat16()
    precision = faster(x, *made) if precision == "auto" else precision
    runs: dict[str, Callable[[], object]] = {
        "released": lambda: [sae.encode(block).nonzero() for block in x.split(4096)],
        "float32": lambda: float_codes(x, *made),
        "certified": lambda: certified_codes(x, *made, precision),  # type: ignore[arg-type]
        "product": lambda: [block @ low[0] for block in low[1].split(512 if x.device.type == "cpu" else 16384)],
    }
    seconds = alternating(runs, x.device, repeats)
    code = certified_codes(x, *made, precision)  # type: ignore[arg-type]
    return {
        "case": name,
        "by": precision,
        **{f"{way} s": round(taken, 4) for way, taken in seconds.items()},
        "released/": round(seconds["released"] / seconds["certified"], 2),
        "float32/": round(seconds["float32"] / seconds["certified"], 2),
        "/product": round(seconds["certified"] / seconds["product"], 2),
        "candidates": round(code.candidates / len(x), 1),
        "l0": round(len(code.indices) / len(x), 1),
        "ties": code.ties,
        "bound": tightness(x[:256], *made),
    }


def tightness(x: Tensor, encoder: Any, activation: Any) -> str:
    """The bound's median excess over the exact margin, and the largest error of the product, in shares of ‖x‖‖w‖."""
    y, screen = encoder.inputs(x), screen_of(encoder, activation)
    exact = y.double() @ encoder.W_enc.double()
    bits, _, dtype, _ = screen.upper(y)
    beta = screen.extra[2:].double().sum(0)[: len(encoder.b_enc)]
    scale = 1 if encoder.scale is None else encoder.scale.double()
    size = torch.linalg.vector_norm(y, dim=1, keepdim=True).double() * encoder.norms * scale
    excess = (bits.view(dtype).double()[:, : len(encoder.b_enc)] - exact * scale - beta) / size.clamp_min(1e-30)
    return f"{float(excess.median()):.1e} (least {float(excess.min()):.0e})"


def lab_rows(repeats: int, tokens: int) -> list[dict[str, Any]]:
    """SAEs of the lab's suite on its own activations."""
    _, x, _, suite = lab_case(None, tokens)
    return [row(f"lab {s.cfg.architecture()} {s.cfg.d_sae}", s, x, repeats) for s in suite]


def in_sum(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows as one, of a suite encoded in turn."""
    ways = {name: sum(row[name] for row in rows) for name in ("released s", "float32 s", "certified s", "product s")}
    ratios = {f"{name}/": round(ways[f"{name} s"] / ways["certified s"], 2) for name in ("released", "float32")}
    floor = round(ways["certified s"] / ways["product s"], 2)
    return {
        "case": f"{len(rows)} SAEs in sum",
        **{k: round(v, 3) for k, v in ways.items()},
        **ratios,
        "/product": floor,
    }


def gemma_rows(widths: list[int], tokens: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """Random JumpReLU SAEs of Gemma 2 2B's size."""
    found = []
    for width in widths:
        _, x, _, (sae,) = gemma_case([width], tokens)
        found.append(row(f"2304 × {width:,}", sae.to(device), x.to(device), repeats))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["lab", "gemma", "both"], default="both")
    parser.add_argument("--widths", type=int, nargs="+", default=[16384, 65536])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", type=Path, help="a CSV file to write the rows to")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {processor(args.device)}\n{HEAD}", flush=True)
    lab = lab_rows(args.repeats, args.tokens) if args.case != "gemma" else []
    gemma = gemma_rows(args.widths, args.tokens, args.repeats, args.device) if args.case != "lab" else []
    for found in [*lab, *([in_sum(lab)] if lab else []), *gemma]:
        print(", ".join(str(value) for value in found.values()), flush=True)
    if args.table:
        write_table(args.table, lab + gemma, args.device)


if __name__ == "__main__":
    main()
