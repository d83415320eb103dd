"""What the profiles need, as this chapter's tables: the terms of their memory, which SAEs they take, and what fits where."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dm_utils.world.needs import BASE_RAM, CONTEXT, FREE_TIER, GB, MACHINES, SELECTIONS, needs, select, size
from dm_utils.world.profile import Profile
from dm_utils.world.profiles import load_profile, profile_names
from dm_utils.world.saes import catalog


def memory_terms() -> pd.DataFrame:
    """The terms of each profile's GPU memory: `profile, section, term, GB`, for Section 4 and for Section 5.3."""
    rows = []
    for name in profile_names():
        need = needs(load_profile(name))
        for section, held in (("Section 4", need.widest), ("Section 5.3", need.compared)):
            terms = {"the model": need.model_bytes, "SAEs": held, "forward pass and engine": need.working}
            rows += [(name, section, term, value / GB) for term, value in terms.items()]
    return pd.DataFrame(rows, columns=["profile", "section", "term", "GB"])


def machines() -> pd.DataFrame:
    """The GPUs that profiles are compared with: `machine, GB`."""
    return pd.DataFrame([(machine.name, machine.gpu / GB) for machine in MACHINES], columns=["machine", "GB"])


def chosen(profile: Profile) -> pd.DataFrame:
    """Which SAEs the paper's selections take from a profile: number, widths, labels' L0s and ids."""
    rows = []
    for selection in SELECTIONS:
        refs = select(profile, selection)
        widths, l0s = sorted({ref.d_sae for ref in refs}), [ref.l0 for ref in refs]
        row: dict[str, object] = {"selection": selection, "SAEs": len(refs)}
        row |= {"widths": f"{widths[0]:,}" + (f" to {widths[-1]:,}" if len(widths) > 1 else "")}
        row |= {"L0": f"{min(l0s):g}" + (f" to {max(l0s):g}" if min(l0s) < max(l0s) else "")}
        some = ", ".join(ref.id for ref in refs[:4])
        rows.append(row | {"ids": some + (f" and {len(refs) - 4} more" if len(refs) > 4 else "")})
    return pd.DataFrame(rows)


def widest_fitting() -> pd.DataFrame:
    """For each profile and machine the `max_width` up to which every chapter fits, Section 5.3 included."""
    rows = []
    for profile in map(load_profile, profile_names()):
        whole = profile.model_copy(update={"max_width": None})
        widths = sorted({ref.d_sae for ref in catalog(whole) if ref.layer == profile.layer})
        row: dict[str, str] = {"profile": profile.name}
        for machine in MACHINES:
            fitting = [width for width in widths if needs(whole.with_overrides(max_width=width)).fits(machine)]
            row[machine.name] = "–" if not fitting else "all" if fitting == widths else f"{fitting[-1]:,}"
        rows.append(row)
    return pd.DataFrame(rows)


def free_tier(names: Sequence[str] = ("gpt2-small", "gemma-2-2b")) -> pd.DataFrame:
    """Every term of the computation for a 16 GB GPU with 12 GB of RAM, for every SAE that the profiles' defaults take."""
    rows: list[tuple[str, str, str, float]] = []
    for name in names:
        need = needs(load_profile(name), "every SAE of the layer")
        widest = max(need.saes, key=lambda ref: ref.d_sae)
        memory: dict[str, float] = {
            "the model": need.model_bytes,
            f"the widest SAE ({widest.d_sae:,} latents)": need.widest,
        }
        memory |= {"forward pass and engine": need.working}
        rows += [(name, "GPU memory", term, value) for term, value in memory.items()]
        rows.append((name, "GPU memory", "CUDA itself", CONTEXT))
        total = need.gpu + CONTEXT
        rows.append((name, "GPU memory", f"together, of {size(FREE_TIER.gpu)}", total))
        rows.append(
            (name, "GPU memory", "the same in Section 5.3, with all its SAEs", total - need.widest + need.compared)
        )
        rows.append((name, "RAM", "Python and its libraries", BASE_RAM))
        rows.append(
            (name, "RAM", "the larger of two copies of an SAE's matrix and a file of the model", need.ram - BASE_RAM)
        )
        rows.append((name, "RAM", f"together, of {size(FREE_TIER.ram)}", need.ram))
    frame = pd.DataFrame(rows, columns=["profile", "of", "term", "bytes"])
    return frame.assign(GB=(frame["bytes"] / GB).round(2)).drop(columns="bytes")
