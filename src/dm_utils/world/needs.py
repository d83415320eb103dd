"""What a profile needs of a machine: memory, disk, downloads and time, computed from the sizes of its model and SAEs.

    parameters      P = V d (1, or 2 if the unembedding is not tied) + C d + n (d h (2 H + 2 K) + m d f + norms)
    model           P × bytes of the dtype
    an SAE          4 (2 d W + 2 W + d) bytes: encoder, decoder, biases and thresholds in float32
    GPU memory      model + widest SAE (Section 5.3: every SAE that it compares) + forward pass + blocks of the engine
    RAM, with a GPU base + the larger of: both copies that loading an SAE makes of a matrix, one file of the model
    disk            model + SAEs + 4 N d bytes for each site's activations (N kept tokens)
    arithmetic      2 P for each token of a forward pass; 2 d W to encode a token and 2 d² for each of its moments

V is the vocabulary, d the width of the residual stream, C learned positions, n layers, H and K heads and key heads of width h,
f the width of the MLP (m = 3 matrices if it is gated, else 2), W an SAE's latents. `BASE_RAM`, `CONTEXT` and `SHARE_OF_PEAK` are
rounded experience; everything else follows from sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from dm_utils.base.errors import ParameterError, require
from dm_utils.world.profile import Component, Profile
from dm_utils.world.profiles import SHAPES, load_profile, profile_names
from dm_utils.world.shapes import Shape

if TYPE_CHECKING:
    import pandas as pd

    from dm_utils.world.sae_ref import SaeRef

GB = 10**9
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BASE_RAM = 2.5 * GB  # Python with every library imported, and CUDA's own share
CONTEXT = 0.5 * GB  # what CUDA keeps of a GPU's memory for itself
PRE_ACTIVATIONS = 2**28  # bytes of `saes.PRE_ACTIVATIONS` in float32
SHARD = 5 * GB  # the largest file of a model's weights, as `transformers` writes them
SHARE_OF_PEAK = 0.4  # of a GPU's float32 arithmetic; a guess that `benchmarks` can replace
NETWORK = 50e6  # bytes per second
Selection = Literal["one SAE", "nearest L0 per width", "every SAE of the layer", "one SAE per layer"]
SELECTIONS: tuple[Selection, ...] = ("one SAE", "nearest L0 per width", "every SAE of the layer", "one SAE per layer")


@dataclass(frozen=True)
class Machine:
    """A GPU and the computer around it: bytes of memory, and float32 operations per second at best."""

    name: str
    gpu: float
    ram: float
    speed: float


FREE_TIER = Machine("T4 (free Colab)", 16 * GB, 12 * GB, 8.1e12)
MACHINES: tuple[Machine, ...] = (
    FREE_TIER,
    Machine("L4", 24 * GB, 48 * GB, 30e12),
    Machine("A100 40 GB", 40 * GB, 80 * GB, 19.5e12),
)
MACHINES += (Machine("A100 80 GB", 80 * GB, 160 * GB, 19.5e12), Machine("H200", 141 * GB, 200 * GB, 67e12))


def shape_of(profile: Profile) -> Shape:
    """The sizes of a profile's model. Raises ParameterError for a model that is not a profile's own."""
    if profile.model == "lab":
        return replace(SHAPES["lab"], n_layers=profile.n_layers, d_model=profile.d_model)
    require(profile.model, SHAPES, "model with known sizes")
    return SHAPES[profile.model]


def sae_bytes(ref: SaeRef, shape: Shape) -> int:
    """An SAE in float32: encoder, decoder, encoder bias, threshold and decoder bias."""
    d = shape.heads * shape.d_head if ref.hook_name.endswith("hook_z") else shape.d_model
    return 4 * (2 * d * ref.d_sae + 2 * ref.d_sae + d)


def select(profile: Profile, selection: Selection, component: Component = "resid") -> list[SaeRef]:
    """The SAEs of one of the paper's selections."""
    from dm_utils.world.saes import catalog, nearest_l0

    found = catalog(profile, component)
    here = [ref for ref in found if ref.layer == profile.layer]
    if selection == "every SAE of the layer":
        return here
    if selection == "nearest L0 per width":
        return nearest_l0(here, profile.near_l0)
    near = nearest_l0(found, profile.near_l0)
    layers = {ref.layer: [other for other in near if other.layer == ref.layer] for ref in near}

    def distance(ref: SaeRef) -> tuple[float, float]:
        """How far an SAE is from the profile's width and L0: chapters take the nearest, too (`Study.sae`)."""
        return abs(math.log(ref.d_sae / profile.width)), abs(ref.l0 - profile.near_l0)

    each = [min(some, key=distance) for some in layers.values()]
    return [ref for ref in each if ref.layer == profile.layer] if selection == "one SAE" else each


@dataclass(frozen=True)
class Needs:
    """What a profile and a selection of its SAEs need; bytes, operations and seconds."""

    profile: Profile
    shape: Shape
    saes: tuple[SaeRef, ...]

    @property
    def tokens(self) -> int:
        """Kept tokens, N."""
        return self.profile.n_contexts * self.profile.kept_per_context

    @property
    def model_bytes(self) -> int:
        """The model in memory, in the profile's dtype."""
        return self.shape.parameters * BYTES[self.profile.dtype]

    @property
    def widest(self) -> int:
        """Bytes of the largest SAE of the selection."""
        return max(sae_bytes(ref, self.shape) for ref in self.saes)

    @property
    def working(self) -> float:
        """What a forward pass and the engine hold beside model and SAE.

        A forward pass that needs logits (Section 5.3) holds them in the model's dtype and twice in float32, for every
        position of a batch. The engine holds pre-activations twice, five blocks of vectors, and three Gram matrices.
        """
        p, s = self.profile, self.shape
        logits = p.batch * p.ctx_len * s.vocabulary * (BYTES[p.dtype] + 8)
        scores = 2 * p.batch * s.heads * p.ctx_len**2 * 4
        engine = 2 * PRE_ACTIVATIONS + 5 * p.block * s.d_model * 4 + 3 * 8 * (s.d_model + 1) ** 2
        return max(logits + scores, engine)

    @property
    def gpu(self) -> float:
        """GPU memory at the peak: the model stays loaded while SAEs are measured."""
        return self.model_bytes + self.widest + self.working

    @property
    def compared(self) -> float:
        """Bytes of the SAEs that Section 5.3 holds at once: nearest L0 per width, and every L0 of the profile's width."""
        wide = select(self.profile, "nearest L0 per width")
        same = [ref for ref in select(self.profile, "every SAE of the layer") if ref.d_sae == self.profile.width]
        return sum(sae_bytes(ref, self.shape) for ref in {*wide, *same})

    @property
    def gpu_downstream(self) -> float:
        """GPU memory at the peak of Section 5.3."""
        return self.model_bytes + self.compared + self.working

    @property
    def ram(self) -> float:
        """RAM at the peak, with a GPU: activations stay on disk, and weights pass through a matrix or a file at a time."""
        return BASE_RAM + max(self.widest, min(SHARD, self.shape.parameters * self.shape.file_bytes))

    @property
    def download(self) -> float:
        """The model's files and the SAEs'. Nothing for what the repository ships."""
        if self.profile.model == "lab":
            return 0
        return self.shape.parameters * self.shape.file_bytes + sum(sae_bytes(ref, self.shape) for ref in self.saes)

    @property
    def disk(self) -> float:
        """Downloads, and one file of activations per site."""
        sites = {ref.hook_name for ref in self.saes}
        return self.download + len(sites) * 4 * self.tokens * self.shape.d_model

    @property
    def operations(self) -> float:
        """Arithmetic of Section 4: forward passes as far as the last layer needs, then one pass per SAE.

        A pass encodes every token (2 d W) and adds the moments of the error and of its two parts with x (3 · 2 d²).
        """
        p, s = self.profile, self.shape
        depth = (max(ref.layer for ref in self.saes) + 1) / s.n_layers
        forward = 2 * s.parameters * depth * p.n_contexts * p.ctx_len
        d = s.d_model
        return forward + sum(self.tokens * (2 * d * ref.d_sae + 6 * d**2) for ref in self.saes)

    def seconds(self, machine: Machine) -> float:
        """Computing time on a machine, at `SHARE_OF_PEAK` of its float32 arithmetic; downloads come on top."""
        return self.operations / (SHARE_OF_PEAK * machine.speed)

    @property
    def machine(self) -> Machine | None:
        """The smallest machine of the list that holds it, Section 5.3 included."""
        return next((machine for machine in MACHINES if self.fits(machine)), None)

    def fits(self, machine: Machine) -> bool:
        """Whether a machine holds it."""
        return max(self.gpu, self.gpu_downstream) + CONTEXT <= machine.gpu and self.ram <= machine.ram


def needs(profile: Profile, selection: Selection = "nearest L0 per width") -> Needs:
    """What a profile needs for one of the paper's selections of SAEs."""
    return Needs(profile, shape_of(profile), tuple(select(profile, selection)))


def table(names: Sequence[str] | None = None, selection: Selection = "nearest L0 per width") -> pd.DataFrame:
    """One row per profile: what `dm profiles` prints and the book shows."""
    import pandas as pd

    if selection not in SELECTIONS:
        raise ParameterError(f"selection = {selection!r}: it must be one of {', '.join(SELECTIONS)}")
    rows = []
    for name in names or profile_names():
        need = needs(load_profile(name), selection)
        row = {"profile": name, "model": need.profile.title, "SAEs": len(need.saes)}
        row |= {"GPU memory": size(need.gpu), "GPU memory, Section 5.3": size(need.gpu_downstream)}
        row |= {"RAM": size(need.ram), "download": size(need.download)}
        row |= {"disk": size(need.disk), "licence to accept": "yes" if need.shape.needs_licence else "no"}
        machine = need.machine
        row["fits on"] = "any computer" if name == "lab" else machine.name if machine else "nothing listed"
        row["computing"] = duration(need.seconds(machine or MACHINES[-1]))
        rows.append(row | {"download at 50 MB/s": duration(need.download / NETWORK)})
    return pd.DataFrame(rows)


def size(count: float) -> str:
    """Bytes in words."""
    if count == 0:
        return "none"
    return f"{count / GB:.1f} GB" if count < 100 * GB else f"{count / GB:.0f} GB"


def duration(seconds: float) -> str:
    """Seconds in words, rounded up to what an estimate can claim."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
