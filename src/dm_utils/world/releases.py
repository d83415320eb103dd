"""SAELens' registry as a catalog: which SAE of a release sits where, how wide it is, and its L0.

The registry gives an id and, often, an L0; layer, width and site stand in the id, in the conventions of each family.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dm_utils.base.errors import ParameterError, did_you_mean
from dm_utils.world import hub
from dm_utils.world.models import parse_hook
from dm_utils.world.profile import Component
from dm_utils.world.sae_ref import SaeRef

if TYPE_CHECKING:
    from sae_lens import SAE

UNITS = {"k": 2**10, "m": 2**20}
GEMMA_SCOPE = re.compile(r"layer_(\d+)/width_(\d+)([km])/average_l0_(\d+)")
LLAMA_SCOPE = re.compile(r"l(\d+)([rma])_(\d+)x")
GEMMA_SCOPE_2 = re.compile(
    r"(resid_post|mlp_out|attn_out)(?:_all)?/layer_(\d+)_width_(\d+)([km])_l0_(?:small|medium|big)(?:_seed_\d+)?"
)
OPENAI_GPT2 = re.compile(r"gpt2-small-.*-v5-(\d+)k")
LLAMA_D_MODEL = 4096
SITE_OF: dict[str, str] = {"r": "hook_resid_post", "m": "hook_mlp_out", "a": "hook_attn_out"}
GEMMA_2_SITE: dict[str, str] = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_out": "attn.hook_z"}
GEMMA_SITE: dict[str, str] = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


@cache
def registry_catalog(release: str) -> tuple[SaeRef, ...]:
    """Every SAE of a SAELens release that sits at a site studied here; needs no network.

    Raises
    ------
    ParameterError : the release is unknown (the nearest is named), or none of its ids is understood.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if release not in directory:
        raise ParameterError(
            f"unknown SAE release {release!r}: it is neither a folder here nor one of SAELens' {len(directory)}."
            + did_you_mean(release, directory)
        )
    entry = directory[release]
    found = [_parse(release, name, path, entry.expected_l0.get(name, 0)) for name, path in entry.saes_map.items()]
    refs = tuple(replace(ref, repo=entry.repo_id) for ref in found if ref is not None)
    if not refs:
        raise ParameterError(
            f"the ids of SAE release {release!r} (such as {next(iter(entry.saes_map))!r}) are not in a convention "
            "known here; download one and name its folder instead"
        )
    return refs


def _parse(release: str, name: str, path: str, l0: float) -> SaeRef | None:
    """Read layer, site, width and L0 from an id; a `canonical` id has its L0 in its path."""
    if match := GEMMA_SCOPE.fullmatch(name) or GEMMA_SCOPE.fullmatch(path):
        layer, count, unit, average = match.groups()
        kind = next((kind for kind in GEMMA_SITE if re.search(rf"-{kind}(-|$)", release)), None)
        if kind is None:
            return None
        return _ref(release, name, int(layer), GEMMA_SITE[kind], "jumprelu", _power(count, unit), float(average))
    if match := GEMMA_SCOPE_2.fullmatch(path):
        kind, layer, count, unit = match.groups()
        return _ref(release, name, int(layer), GEMMA_2_SITE[kind], "jumprelu", _power(count, unit), l0)
    if match := LLAMA_SCOPE.fullmatch(name):
        layer, kind, times = match.groups()
        return _ref(release, name, int(layer), SITE_OF[kind], "jumprelu", LLAMA_D_MODEL * int(times), l0)
    if (match := OPENAI_GPT2.fullmatch(release)) and name.startswith("blocks."):
        _, layer, site = name.split(".", 2)
        return _ref(release, name, int(layer), site, "topk", int(match[1]) * UNITS["k"], l0 or 32.0)
    return None


def _power(count: str, unit: str) -> int:
    """The power of two that an id rounds: 65k is 2¹⁶, 131k is 2¹⁷, 262k is 2¹⁸."""
    return int(2 ** round(math.log2(int(count) * UNITS[unit])))


def _ref(release: str, name: str, layer: int, site: str, architecture: str, width: int, l0: float) -> SaeRef | None:
    try:
        component: Component = parse_hook(f"blocks.{layer}.{site}")[0]
    except ParameterError:
        return None
    return SaeRef(release, name, component, layer, f"blocks.{layer}.{site}", architecture, width, float(l0))


def load_registered(ref: SaeRef, device: torch.device | str) -> SAE[Any]:
    """Fetch an SAE of SAELens' registry at its commit, and read it with SAELens' own loader for its format."""
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_repo_id_and_folder_name

    path = get_repo_id_and_folder_name(ref.release, ref.name)[1]
    folder = hub.fetch(ref.repo, ref.commit, (path, f"{path}/*"))
    with hub.explained(ref.repo, ref.commit), _reading(folder, ref.commit):
        return SAE.from_pretrained(ref.release, ref.name, device=str(device), dtype="float32")


@contextmanager
def _reading(folder: Path, commit: str) -> Iterator[None]:
    """Have SAELens' loaders read one commit, which they cannot be told, and a shape from the file that is here."""
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors import safe_open

    def shapes(_: str, filename: str) -> dict[str, list[int]]:
        with safe_open(folder / filename, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    theirs = loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes
    loaders.hf_hub_download = partial(theirs[0], revision=commit)
    loaders.get_safetensors_tensor_shapes = shapes
    try:
        yield
    finally:
        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = theirs
