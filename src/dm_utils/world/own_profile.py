"""What a profile needs to know when a model or SAEs of your own replace its own; read from their files."""

from __future__ import annotations

import json
import math
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
    """Overrides of a profile, with what follows from them: a model's sizes and title; the layer, L0 and width of its SAEs."""
    if "releases" in changed:
        changed = changed | {"releases": by_component(changed["releases"])}
    model, layer = changed.get("model", base.model), base.layer
    if isinstance(model, str) and model not in ("lab", base.model):
        sizes = model_sizes(model, changed.get("model_revision"))
        changed = {"name": "own", "title": Path(model).name, **sizes, **changed}
        layer = min(round(base.layer / base.n_layers * changed["n_layers"]), changed["n_layers"] - 1)  # as deep
    return {"layer": layer, **nearest(changed, base, layer), **changed}


def nearest(changed: Mapping[str, Any], base: Profile, layer: int) -> dict[str, Any]:
    """Layer, L0 and width of the local SAEs nearest to `layer` and to the base's own; residual SAEs if there are any."""
    from dm_utils.world.saes import release_catalog

    releases = changed.get("releases")
    listed = releases.values() if isinstance(releases, Mapping) else []  # a wrong type is refused later, here too
    names = [name for names in listed if isinstance(names, list | tuple) for name in names if isinstance(name, str)]
    refs = [ref for name in dict.fromkeys(names) if Path(name).expanduser().is_dir() for ref in release_catalog(name)]
    refs = [ref for ref in refs if ref.component == "resid"] or refs
    if not refs:
        return {}
    wanted = changed["layer"] if isinstance(changed.get("layer"), int) else layer  # a wrong type is refused later
    layer = min({ref.layer for ref in refs}, key=lambda other: (abs(other - wanted), other))
    here = [ref for ref in refs if ref.layer == layer]
    found: dict[str, Any] = {"layer": layer, "width": _nearest(base.width, [ref.d_sae for ref in here])}
    labels = [ref.l0 for ref in here if ref.l0 > 0]
    return found | ({"near_l0": _nearest(base.near_l0, labels)} if labels else {})


def _nearest(wanted: float, there: Sequence[float]) -> float:
    return min(there, key=lambda value: (abs(math.log(value / wanted)), value))


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
