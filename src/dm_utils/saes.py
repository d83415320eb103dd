"""Sparse autoencoders: which there are, how one is loaded, and its sparse encode and decode."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dm_utils import hub
from dm_utils.models import parse_hook
from dm_utils.profiles import Component, ParameterError, Profile
from dm_utils.store import file_sha256

if TYPE_CHECKING:
    from sae_lens import SAE

PRE_ACTIVATIONS = 2**26  # 256 MiB of float32
CPU_ROWS = 512  # tokens per encode on a CPU: few enough for its caches, enough that reading W_enc again costs little


@dataclass(frozen=True)
class SaeRef:
    """One SAE that a profile can study: where it is, where it sits, and its label's width and L0.

    `repo` is the hub's repository of a SAELens release, `revision` the commit, tag or branch that was asked for.
    """

    release: str
    id: str
    component: Component
    layer: int
    hook_name: str
    architecture: str
    d_sae: int
    l0: float
    revision: str = ""
    repo: str = ""

    @property
    def name(self) -> str:
        """The id within its release; `id` starts with the release where two releases of a profile use the same id."""
        return self.id.removeprefix(f"{self.release}/")

    @property
    def commit(self) -> str:
        """The commit of the SAE's repository on the hub; for an SAE of a local folder, its file's digest."""
        return hub.commit(self.repo, self.revision or None) if self.repo else self.revision

    def key(self) -> dict[str, Any]:
        """What identifies the SAE in a result's key."""
        known = {name: value for name, value in asdict(self).items() if name != "repo"}
        return known | {"revision": self.commit}


@dataclass(frozen=True)
class Codes:
    """Sparse latents of a block of tokens: token t owns entries offsets[t] … offsets[t + 1] − 1."""

    indices: Int[Tensor, " active"]
    values: Float[Tensor, " active"]
    offsets: Int[Tensor, " token"]

    @property
    def l0(self) -> Int[Tensor, " token"]:
        """Active latents of each token, ‖hidden(x)‖₀."""
        end = torch.tensor([len(self.indices)], device=self.offsets.device)
        return torch.diff(torch.cat([self.offsets, end]))


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


@cache
def release_catalog(release: str) -> tuple[SaeRef, ...]:
    """The SAEs of the lab's suite, of a local folder of SAELens folders, or of a SAELens release (`name@revision`)."""
    if release == "lab":
        from dm_utils.lab import weights_path

        return folder_catalog(weights_path() / "saes", "lab")
    if Path(release).expanduser().is_dir():
        return folder_catalog(Path(release).expanduser(), release)
    from dm_utils.releases import registry_catalog

    name, _, revision = release.partition("@")
    return tuple(replace(ref, revision=revision) for ref in registry_catalog(name))


def folder_catalog(folder: Path, release: str) -> tuple[SaeRef, ...]:
    """Read `cfg.json` of every SAELens SAE folder in `folder` (or of `folder` itself)."""
    configs = sorted(folder.glob("*/cfg.json")) or sorted(folder.glob("cfg.json"))
    if not configs:
        raise ParameterError(
            f"{folder} holds no SAE: expected cfg.json and sae_weights.safetensors, or folders of them"
        )
    return tuple(_folder_ref(path, release) for path in configs)


def _folder_ref(path: Path, release: str) -> SaeRef:
    config = json.loads(path.read_text())
    metadata = config.get("metadata", {})
    hook = metadata.get("hook_name") or config.get("hook_name") or ""
    try:
        component, layer = parse_hook(hook)
    except ParameterError as error:
        raise ParameterError(f"the SAE in {path.parent}: {error}") from None
    weights = path.parent / "sae_weights.safetensors"
    return SaeRef(
        release=release,
        id=path.parent.name,
        component=component,
        layer=layer,
        hook_name=hook,
        architecture=config["architecture"],
        d_sae=config["d_sae"],
        l0=float(metadata.get("near_l0") or metadata.get("l0") or config.get("k") or 0),
        revision=file_sha256(weights)[:16] if weights.exists() else "missing",
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
        from dm_utils.releases import load_registered

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


def check_loaded(ref: SaeRef, sae: SAE[Any]) -> None:
    """Refuse an SAE whose weights are not what its catalog entry says."""
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


def sparse_decode_applies(sae: SAE[Any]) -> bool:
    """Whether Sae(x) is W_dec · hidden(x) + b_dec (Eq. 2) with nothing after it."""
    return sae.cfg.architecture() in {"topk", "jumprelu", "standard", "gated"} and (
        sae.cfg.normalize_activations in {"none", "expected_average_only_in"}
    )


@torch.inference_mode()
def codes(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Codes:
    """Encode a block and keep the active latents (Eqs. 1, 6, 8).

    At most `PRE_ACTIVATIONS` pre-activations exist at a time, whatever the SAE's width, and for TopK and JumpReLU
    the dense [token, d_sae] latents that `sae.encode` returns never do.
    """
    select = {"topk": _topk, "jumprelu": _jumprelu}.get(sae.cfg.architecture(), _any)
    step = max(1, PRE_ACTIVATIONS // sae.cfg.d_sae)
    if x.device.type == "cpu":
        step = min(step, CPU_ROWS)
    found = [select(sae, x[start : start + step]) for start in range(0, len(x), step)]
    token = torch.cat([t + i * step for i, (t, _, _) in enumerate(found)])
    counts = torch.bincount(token, minlength=len(x))
    indices, values = (torch.cat([part[i] for part in found]) for i in (1, 2))
    return Codes(indices, values, torch.cumsum(counts, 0) - counts)


Active = tuple[Int[Tensor, " active"], Int[Tensor, " active"], Float[Tensor, " active"]]  # token, latent, value


def _topk(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Active:
    hidden = torch.addmm(sae.b_enc, sae.process_sae_in(x), sae.W_enc)
    if sae.cfg.rescale_acts_by_decoder_norm:
        hidden *= sae.W_dec.norm(dim=-1)
    values, indices = torch.topk(hidden, sae.cfg.k, dim=-1, sorted=False)
    active = (values > 0).nonzero(as_tuple=True)
    return active[0], indices[active], values[active]


def _jumprelu(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Active:
    hidden = torch.addmm(sae.b_enc, sae.process_sae_in(x), sae.W_enc)
    active = (hidden > sae.threshold.clamp_min(0)).nonzero(as_tuple=True)
    return active[0], active[1], hidden[active]


def _any(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Active:
    hidden = sae.encode(x)
    active = hidden.nonzero(as_tuple=True)
    return active[0], active[1], hidden[active]


@torch.inference_mode()
def decode(sae: SAE[Any], code: Codes) -> Float[Tensor, "token d"]:
    """Sae(x) = W_dec · hidden(x) + b_dec (Eq. 2), reading only the active rows of W_dec."""
    values = code.values
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        values = values / sae.W_dec.norm(dim=-1)[code.indices]
    total = F.embedding_bag(code.indices, sae.W_dec, code.offsets, mode="sum", per_sample_weights=values)
    return total + sae.b_dec


@torch.inference_mode()
def reconstruct(sae: SAE[Any], x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
    """Sae(x) of a block: sparse decode where it applies, the SAE's own decode otherwise."""
    x = x.to(sae.W_dec.dtype)
    return decode(sae, codes(sae, x)) if sparse_decode_applies(sae) else sae.decode(sae.encode(x))
