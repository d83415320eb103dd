"""What a profile needs to know when a model or SAEs of your own replace its own; read from their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dm_utils.base.errors import LoadError, ParameterError, shown
from dm_utils.world import hub
from dm_utils.world.profile import Profile

LAYERS, WIDTH = ("num_hidden_layers", "n_layer"), ("hidden_size", "n_embd")  # their names in config.json


def model_sizes(model: str, revision: str | None = None) -> dict[str, int]:
    """`n_layers` and `d_model` as a model's config.json says them, from a local folder or from the hub.

    Raises
    ------
    ParameterError : the folder is not a Hugging Face model folder.
    LoadError : the hub does not give the file.
    """
    folder = Path(model).expanduser()
    try:
        folder = folder if folder.is_dir() else hub.fetch(model, revision, ["config.json"])
    except LoadError as error:
        raise LoadError(f"model = {shown(model)}: {error}") from error
    path = folder / "config.json"
    if not path.exists():
        raise ParameterError(
            f"model = {model!r}: the folder holds no config.json, so it is not a Hugging Face model folder"
        )
    config = json.loads(path.read_text())
    config |= config.get("text_config") or {}  # models that also see
    found = {
        size: next((int(config[name]) for name in names if name in config), 0)
        for size, names in (("n_layers", LAYERS), ("d_model", WIDTH))
    }
    if not all(found.values()):
        raise ParameterError(
            f"model = {model!r}: its config.json names neither of {LAYERS} and {WIDTH}; give n_layers, d_model"
        )
    return found


def complete(base: Profile, changed: dict[str, Any]) -> dict[str, Any]:
    """Overrides of a profile, with what follows from them: a model's sizes, title and layer; lists of releases."""
    if "releases" in changed:
        changed = changed | {"releases": by_component(changed["releases"])}
    model, layer = changed.get("model", base.model), base.layer
    if isinstance(model, str) and model not in ("lab", base.model):
        sizes = model_sizes(model, changed.get("model_revision"))
        changed = {"name": "own", "title": Path(model).name, **sizes, **changed}
        layer = min(round(base.layer / base.n_layers * changed["n_layers"]), changed["n_layers"] - 1)  # as deep
    return {"layer": nearest_layer(changed.get("releases"), layer), **changed}


def nearest_layer(releases: Any, layer: int) -> int:
    """The layer nearest to `layer` at which local folders of SAEs have residual SAEs, or others if there are none."""
    from dm_utils.world.saes import release_catalog

    names = [name for names in releases.values() for name in names] if isinstance(releases, Mapping) else []
    refs = [ref for name in names if Path(name).expanduser().is_dir() for ref in release_catalog(name)]
    layers = {ref.layer for ref in refs if ref.component == "resid"} or {ref.layer for ref in refs} or {layer}
    return min(layers, key=lambda other: (abs(other - layer), other))


def by_component(releases: Any) -> Any:
    """Releases as a profile holds them: a name, or a list of names, is sorted by what its SAEs say they sit at."""
    names = [releases] if isinstance(releases, str) else releases
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        return releases  # the profile refuses it and says what it takes
    from dm_utils.world.saes import release_catalog

    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        try:
            parts = dict.fromkeys(ref.component for ref in release_catalog(name))
        except ParameterError as error:
            raise ParameterError(f"releases = {shown(name)}: {error}") from None
        for part in parts:
            found[part] = (*found.get(part, ()), name)
    return found
