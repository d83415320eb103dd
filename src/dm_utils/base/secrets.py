"""The secrets that this project can see, and one door that keeps them out of everything that is written."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "DM_OPENAI_API_KEY", "OPENAI_API_KEY")
SHORTEST = 6  # characters: anything shorter is a word that ordinary text holds
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def known() -> dict[str, str]:
    """Each secret by where it comes from: the environment, and the token that `hf auth login` keeps."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface")).expanduser()
    stored = Path(os.environ.get("HF_TOKEN_PATH", home / "token")).expanduser()
    found = {name: os.environ.get(name, "").strip() for name in NAMES}
    with contextlib.suppress(OSError, ValueError):
        found["the stored HF token"] = stored.read_text(encoding="utf-8").strip()
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}


def _spellings(value: str) -> Iterator[str]:
    """A secret as servers and libraries write it: in clear, in a URL, in JSON, in a Python literal, in base64."""
    raw = value.encode()
    yield from (value, urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value))
    yield from (json.dumps(value)[1:-1], repr(value)[1:-1], json.dumps(repr(value))[2:-2], raw.hex())
    for lead in range(3):  # the base64 of a longer text that holds it: the part that does not depend on what is around
        coded = base64.b64encode(b"\0" * lead + raw).decode().rstrip("=")
        yield coded[(0, 2, 3)[lead] : -1 if (lead + len(raw)) % 3 else None]


def redact(text: str) -> str:
    """The text with every secret replaced by the name of where it comes from."""
    for name, value in known().items():
        for spelling in sorted(set(_spellings(value)), key=len, reverse=True):
            text = text.replace(spelling, f"[{name}]")
    return text


def redact_all(value: Any) -> Any:
    """The same for every text inside lists and mappings."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(one) for key, one in value.items()}
    return [redact_all(one) for one in value] if isinstance(value, list | tuple) else value


def held_in(text: str) -> str | None:
    """The name of a secret that a text holds, or None."""
    return next((name for name, value in known().items() if any(one in text for one in _spellings(value))), None)


def loopback_is_direct() -> str:
    """`NO_PROXY` with this machine's own addresses, so that nothing meant for a local server goes through a proxy."""
    given = os.environ.get("NO_PROXY", os.environ.get("no_proxy", ""))
    names = [name.strip() for name in given.split(",") if name.strip()]
    return ",".join([*names, *(name for name in LOOPBACK if name not in names)])


def guard(shell: Any) -> None:
    """Make a notebook's shell redact what it shows of an error: the one place where tracebacks are written."""
    if shell is None or getattr(shell, "dm_guarded", False):
        return
    show: Callable[..., None] = shell._showtraceback

    def redacted(kind: type[BaseException], value: BaseException, lines: list[str]) -> None:
        show(kind, Exception(redact(str(value))), [redact(line) for line in lines])

    shell._showtraceback, shell.dm_guarded = redacted, True
