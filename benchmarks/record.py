"""What the benchmarks share: a clock, where they ran, and a table of their rows."""

from __future__ import annotations

import csv
import platform
import time
from pathlib import Path
from typing import Any

import torch


def clock(device: torch.device) -> float:
    """Seconds: of this thread where there is one, so that other work on the machine does not count."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.thread_time()
    return time.perf_counter()


def processor(device: str) -> str:
    """The name of what the products ran on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    listed = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in listed.splitlines() if line.startswith("model name")]
    return f"{(names or [platform.processor() or platform.machine()])[0]}, {torch.backends.cpu.get_cpu_capability()}"


def write_table(path: Path, rows: list[dict[str, Any]], device: str) -> None:
    """Every row as a line of CSV, after the device, its threads and PyTorch's version."""
    path.parent.mkdir(exist_ok=True)
    where = {"device": processor(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*where, *rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(where | row for row in rows)
