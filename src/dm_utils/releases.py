"""SAELens' registry as a catalog: which SAE of a release sits where, how wide it is, and its L0.

The registry gives an id and, often, an L0; layer, width and site stand in the id, in the conventions of each family.
"""

from __future__ import annotations

import math
import re

from dm_utils.models import parse_hook
from dm_utils.profiles import Component, ParameterError, require
from dm_utils.saes import SaeRef

UNITS = {"k": 2**10, "m": 2**20}
GEMMA_SCOPE = re.compile(r"layer_(\d+)/width_(\d+)([km])/average_l0_(\d+)")
LLAMA_SCOPE = re.compile(r"l(\d+)([rma])_(\d+)x")
OPENAI_GPT2 = re.compile(r"gpt2-small-.*-v5-(\d+)k")
LLAMA_D_MODEL = 4096
SITE_OF: dict[str, str] = {"r": "hook_resid_post", "m": "hook_mlp_out", "a": "hook_attn_out"}
GEMMA_SITE: dict[str, str] = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


def registry_catalog(release: str) -> tuple[SaeRef, ...]:
    """Every SAE of a SAELens release that sits at a site studied here; needs no network.

    Raises
    ------
    ParameterError : the release is unknown (the nearest is named), or none of its ids is understood.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    try:
        require(release, directory, "SAE release")
    except ParameterError as error:
        near = str(error).rpartition(" Did you mean")[2]
        hint = f" Did you mean{near}" if " Did you mean" in str(error) else ""
        raise ParameterError(
            f"unknown SAE release {release!r}: it is neither a folder here nor one of SAELens' {len(directory)}.{hint}"
        ) from None
    entry = directory[release]
    found = [_parse(release, name, path, entry.expected_l0.get(name, 0)) for name, path in entry.saes_map.items()]
    refs = tuple(ref for ref in found if ref is not None)
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
        width = 2 ** round(math.log2(int(count) * UNITS[unit]))  # ids round: 65k is 2¹⁶, 131k is 2¹⁷
        return _ref(release, name, int(layer), GEMMA_SITE[kind], "jumprelu", width, float(average))
    if match := LLAMA_SCOPE.fullmatch(name):
        layer, kind, times = match.groups()
        return _ref(release, name, int(layer), SITE_OF[kind], "jumprelu", LLAMA_D_MODEL * int(times), l0)
    if (match := OPENAI_GPT2.fullmatch(release)) and name.startswith("blocks."):
        _, layer, site = name.split(".", 2)
        return _ref(release, name, int(layer), site, "topk", int(match[1]) * UNITS["k"], l0 or 32.0)
    return None


def _ref(release: str, name: str, layer: int, site: str, architecture: str, width: int, l0: float) -> SaeRef | None:
    try:
        component: Component = parse_hook(f"blocks.{layer}.{site}")[0]
    except ParameterError:
        return None
    return SaeRef(release, name, component, layer, f"blocks.{layer}.{site}", architecture, width, l0)
