"""Sparse autoencoders: which there are, and how one is loaded and checked."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dm_utils.base.errors import ParameterError
from dm_utils.base.files import identity_of
from dm_utils.maths.encoding import reconstruct
from dm_utils.maths.resampling import check_finite
from dm_utils.world.models import parse_hook
from dm_utils.world.profile import Component, Profile
from dm_utils.world.sae_ref import SaeRef

if TYPE_CHECKING:
    from sae_lens import SAE

__all__ = [
    "catalog",
    "check_fits",
    "check_loaded",
    "folder_catalog",
    "load_sae",
    "nearest_l0",
    "reconstruct",
    "release_catalog",
]


def catalog(profile: Profile, component: Component = "resid") -> list[SaeRef]:
    """Every SAE of a component that the profile names, sorted by layer, architecture, width and L0."""
    found: list[SaeRef] = []
    for release in profile.releases.get(component, ()):
        found += [ref for ref in release_catalog(release) if ref.component == component]
    if not found:
        raise ParameterError(
            f"the profile {profile.name!r} names no SAEs for component {component!r}; "
            f"it has {', '.join(profile.releases)}"
        )
    if profile.max_width and not any(ref.d_sae <= profile.max_width for ref in found):
        raise ParameterError(
            f"max_width = {profile.max_width}: the narrowest {component} SAE of {profile.name!r} has "
            f"{min(ref.d_sae for ref in found)} latents"
        )
    found = [ref for ref in found if ref.d_sae <= (profile.max_width or ref.d_sae)]
    counts = Counter(ref.id for ref in found)
    found = [replace(ref, id=f"{ref.release}/{ref.id}") if counts[ref.id] > 1 else ref for ref in found]
    return sorted(found, key=lambda ref: (ref.layer, ref.architecture, ref.d_sae, ref.l0, ref.id))


def release_catalog(release: str) -> tuple[SaeRef, ...]:
    """The SAEs of the lab's suite, of a local folder of SAELens folders, or of a SAELens release (`name@revision`)."""
    if release == "lab":
        from dm_utils.lab import weights_path

        return folder_catalog(weights_path() / "saes", "lab")
    if Path(release).expanduser().is_dir():
        return folder_catalog(Path(release).expanduser(), release)
    from dm_utils.world.releases import registry_catalog

    name, _, revision = release.partition("@")
    return tuple(replace(ref, revision=revision) for ref in registry_catalog(name))


def folder_catalog(folder: Path, release: str) -> tuple[SaeRef, ...]:
    """Read `cfg.json` of every SAELens SAE folder in `folder` (or of `folder` itself)."""
    configs = sorted(folder.glob("*/cfg.json")) or sorted(folder.glob("cfg.json"))
    if not configs:
        raise ParameterError(
            f"{folder} holds no SAE: expected cfg.json and sae_weights.safetensors, or folders of them"
        )
    return tuple(_folder_ref(path, release, _state(path.parent)) for path in configs)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors") and path.is_file())


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of change of an SAE's files: while they stay, so does its catalog entry."""
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _files(folder))


@cache
def _folder_ref(path: Path, release: str, _: tuple[tuple[str, int, int], ...]) -> SaeRef:
    config = json.loads(path.read_text())
    metadata = config.get("metadata", {})
    hook = metadata.get("hook_name") or config.get("hook_name") or ""
    try:
        component, layer = parse_hook(hook)
    except ParameterError as error:
        raise ParameterError(f"the SAE in {path.parent}: {error}") from None
    return SaeRef(
        release=release,
        id=path.parent.name,
        component=component,
        layer=layer,
        hook_name=hook,
        architecture=config["architecture"],
        d_sae=config["d_sae"],
        l0=float(metadata.get("near_l0") or metadata.get("l0") or config.get("k") or 0),
        revision=identity_of(_files(path.parent))[:16],
    )


def load_sae(ref: SaeRef, device: torch.device | str = "cpu") -> SAE[Any]:
    """Load an SAE for inference in float32, on flat activations [token, d].

    Raises
    ------
    LoadError : it cannot be fetched or read.
    ParameterError : what was loaded is not what the catalog says (site, width).
    """
    from sae_lens import SAE

    if ref.repo:
        from dm_utils.world.releases import load_registered

        sae = load_registered(ref, device)
    else:
        folder = Path(ref.release).expanduser()
        if ref.release == "lab":
            from dm_utils.lab import weights_path

            folder = weights_path() / "saes"
        path = folder / ref.name if (folder / ref.name).is_dir() else folder
        sae = SAE.load_from_disk(path, device=str(device), dtype="float32")
    check_loaded(ref, sae)
    if sae.hook_z_reshaping_mode:
        sae.turn_off_forward_pass_hook_z_reshaping()
    return sae.eval().requires_grad_(False)


def check_kind(sae: SAE[Any], name: str) -> None:
    """Refuse what does not reconstruct each vector that it reads from that vector alone: its "error" would be another thing."""
    kind = sae.cfg.architecture()
    if hasattr(sae.cfg, "d_out") or kind == "temporal":
        why = "reads a whole context at once" if kind == "temporal" else "reconstructs another site than it reads"
        raise ParameterError(
            f"the SAE {name!r} is a {kind}, which {why}; what is studied here is x − Sae(x), token by token: give an SAE"
        )


def check_weights(sae: SAE[Any], name: str) -> None:
    """Refuse an SAE that holds NaN or Inf: a comparison drops them, so that its numbers would look like numbers."""
    for part, values in sae.state_dict().items():
        if values.is_floating_point():
            try:
                check_finite(values, f"{part} of the SAE {name!r}")
            except ValueError as error:
                raise ParameterError(str(error)) from None


def check_loaded(ref: SaeRef, sae: SAE[Any]) -> None:
    """Refuse an SAE whose weights are not what its catalog entry says, or not numbers."""
    check_kind(sae, ref.id)
    check_weights(sae, ref.id)
    hook = sae.cfg.metadata.hook_name
    if hook and hook != ref.hook_name:
        raise ParameterError(f"the SAE {ref.id!r} of {ref.release} was trained at {hook}, not at {ref.hook_name}")
    if tuple(sae.W_dec.shape) != (ref.d_sae, sae.cfg.d_in):
        raise ParameterError(
            f"the SAE {ref.id!r} of {ref.release} has W_dec of shape {tuple(sae.W_dec.shape)}; its name and configuration "
            f"say {(ref.d_sae, sae.cfg.d_in)}"
        )


def check_fits(ref: SaeRef, sae: SAE[Any], hook: str, d: int, others: Sequence[SaeRef] = ()) -> None:
    """Refuse an SAE that does not sit at a site of width d; name the nearest of `others` that does."""
    if ref.hook_name == hook and sae.cfg.d_in == d:
        return
    reason = (
        f"it was trained at {ref.hook_name}, and the site is {hook}"
        if ref.hook_name != hook
        else f"it reads vectors of {sae.cfg.d_in} numbers, and those of {hook} have {d}: it belongs to another model"
    )
    fitting = [other for other in others if other.hook_name == hook and other != ref]
    near = min(
        fitting, key=lambda other: (abs(math.log(other.d_sae / ref.d_sae)), abs(other.l0 - ref.l0)), default=None
    )
    hint = f" The nearest that fits is {near.id!r} of {near.release}." if near else ""
    raise ParameterError(f"the SAE {ref.id!r} of {ref.release} does not fit: {reason}.{hint}")


def nearest_l0(refs: Sequence[SaeRef], near_l0: float) -> list[SaeRef]:
    """The paper's selection: for each layer, component, architecture and width, the SAE with the nearest L0."""
    best: dict[tuple[Any, ...], SaeRef] = {}
    for ref in refs:
        group = (ref.component, ref.layer, ref.architecture, ref.d_sae)
        if group not in best or abs(ref.l0 - near_l0) < abs(best[group].l0 - near_l0):
            best[group] = ref
    return list(best.values())
