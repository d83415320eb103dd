"""What this machine has, and how to go on with less of it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger("dm_utils")
Result = TypeVar("Result")
OUT = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA and MPS, Linux, Windows


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT)


def with_less(run: Callable[[int], Result], size: int, what: str) -> tuple[Result, int]:
    """Return `run(size)`, halving `size` each time memory runs out, and the size that it worked with.

    Raises
    ------
    MemoryError : it does not fit with a size of 1 either.
    """
    while True:
        try:
            return run(size), size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise MemoryError(
                    f"{what}: out of memory with 1 at a time. Choose a smaller model or a narrower SAE, a shorter ctx_len, "
                    "or another device"
                ) from error
        # Outside the handler the failed attempt's tensors are no longer referred to.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("%s: out of memory with %d at a time; going on with %d", what, size, size // 2)
        size //= 2


def available(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    import psutil

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def describe(device: torch.device) -> str:
    """A device in words."""
    if device.type != "cuda":
        return {"cpu": "the CPU", "mps": "Apple's GPU"}.get(device.type, str(device))
    size = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"{torch.cuda.get_device_name(device)} ({size:.0f} GiB)"
