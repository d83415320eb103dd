"""The record that travels with the lab's weights: what each file is, and how all of them were made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

MAX_BYTES = 50_000_000
MANIFEST = "manifest.json"
_LIBRARIES = ("torch", "transformers", "tokenizers", "transformer-lens", "sae-lens", "safetensors", "numpy")


def weights_path() -> Path:
    """Return the folder of the shipped weights (``model/``, ``saes/<id>/``, ``manifest.json``)."""
    return Path(__file__).parent / "weights"


def read_manifest(folder: Path | None = None) -> dict[str, Any]:
    """Return the manifest of a weights folder (the shipped one by default).

    Raises
    ------
    FileNotFoundError
        If the folder has none.
    """
    file = (weights_path() if folder is None else folder) / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the lab's weights are not there. Train them with `make lab`.")
    return json.loads(file.read_text())


def write_manifest(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write ``manifest.json``: the record, the versions used, and every file's size and SHA-256.

    Raises
    ------
    ValueError
        If the folder is larger than 50 MB.
    """
    files: dict[str, dict[str, Any]] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in _files(folder)
    }
    total = sum(entry["bytes"] for entry in files.values())
    versions = {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
    manifest = {**record, "versions": versions, "total_bytes": total, "files": files}
    text = json.dumps(manifest, indent=1, allow_nan=False) + "\n"
    if total + len(text.encode()) > MAX_BYTES:
        raise ValueError(f"{folder} holds {total / 1e6:.1f} MB; the lab's weights may take {MAX_BYTES / 1e6:.0f} MB.")
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(text)
    os.replace(temporary, folder / MANIFEST)
    return manifest


def verify(folder: Path | None = None) -> dict[str, Any]:
    """Check every file of a weights folder (the shipped one by default) against its manifest, and return the manifest.

    Raises
    ------
    FileNotFoundError
        Names the files that are missing.
    ValueError
        Names the files whose content is not the one recorded, or that the manifest does not know.
    """
    folder = weights_path() if folder is None else folder
    manifest = read_manifest(folder)
    listed = manifest["files"]
    missing = [name for name in listed if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"Missing from {folder}: {', '.join(missing)}. Restore the files with git checkout.")
    wrong = [name for name, entry in listed.items() if sha256(folder / name) != entry["sha256"]]
    if wrong:
        raise ValueError(f"Damaged or edited in {folder} (wrong SHA-256): {', '.join(wrong)}. Restore them with git.")
    unknown = sorted(set(_files(folder)) - set(listed))
    if unknown:
        raise ValueError(f"Not in the manifest of {folder}: {', '.join(unknown)}. Remove them or train the lab again.")
    return manifest


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def install(source: Path, target: Path | None = None) -> Path:
    """Replace a weights folder (the shipped one by default) by a verified one, in one step.

    The copy is complete and verified before the old folder moves aside, and the old one is removed only then.
    """
    verify(source)
    target = weights_path() if target is None else target
    new, old = target.with_name(f"{target.name}.new"), target.with_name(f"{target.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, new)
    for file in _files(new):
        (new / file).chmod(0o644)
    verify(new)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def _files(folder: Path) -> list[str]:
    inside = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in inside if name != MANIFEST)
