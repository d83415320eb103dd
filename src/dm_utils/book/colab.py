"""What a notebook needs in Colab: the package's dependencies, and a profile that fits the GPU.

The first code cell of every notebook is `CELL`. It runs before anything is installed, so nothing but the standard
library is imported at the top of this module. Outside Colab `prepare` does nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

ARCHIVE = "https://github.com/dark-matter-book/dark-matter-book/archive/refs/heads/main.zip"
CELL = f"""\
# For Colab: installs the book's package (never torch or numpy) and picks a profile that fits the GPU. Elsewhere: nothing.
try:
    from dm_utils import colab
except ImportError:
    %pip install --quiet --no-deps {ARCHIVE}
    from dm_utils import colab
colab.prepare()"""
KEPT = ("torch", "numpy")  # Colab's own match its drivers and its other packages


def in_colab() -> bool:
    """Whether this is a Colab runtime."""
    try:
        return importlib.util.find_spec("google.colab") is not None
    except ModuleNotFoundError:
        return False


def unmet(requirements: Iterable[str], installed: Mapping[str, str]) -> list[str]:
    """The requirements, extras left out, that the installed versions do not meet.

    Raises
    ------
    RuntimeError : a package of `KEPT` is there in a version that cannot be used; it is never replaced.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wanted = [Requirement(text) for text in requirements]
    wanted = [need for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    found = []
    for need in wanted:
        version = installed.get(canonicalize_name(need.name))
        if version is not None and need.specifier.contains(version, prereleases=True):
            continue
        if version is not None and need.name in KEPT:
            raise RuntimeError(
                f"this runtime has {need.name} {version}; the book needs {need.name}{need.specifier}. It is not replaced, "
                "because other packages depend on it: choose a newer runtime (Runtime > Change runtime type)"
            )
        found.append(f"{need.name}{need.specifier}")
    return found


def pins(installed: Mapping[str, str]) -> list[str]:
    """What pip is held to: the packages of `KEPT` exactly as they are."""
    return [f"{name}=={installed[name]}" for name in KEPT if name in installed]


def installed_versions() -> dict[str, str]:
    """The version of every installed package, by its canonical name."""
    from packaging.utils import canonicalize_name

    return {canonicalize_name(one.name): one.version for one in metadata.distributions() if one.name}


def install() -> list[str]:
    """Install what the package needs and this runtime lacks; return what was asked for.

    Raises
    ------
    RuntimeError : pip failed (its message stands above), or the runtime's torch or numpy is too old.
    """
    requirements, before = metadata.requires("dm-utils") or [], installed_versions()
    asked = unmet(requirements, before)
    if not asked:
        return []
    print(f"Installing {', '.join(asked)}. This takes a minute or two.")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        # Every range is a constraint, so that what is installed already stays within the book's ranges.
        plain = [text for text in requirements if "extra" not in text]
        constraints.write_text("\n".join([*pins(before), *plain]))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*command, "--constraint", str(constraints), *asked], check=False).returncode:
            raise RuntimeError("pip could not install what the book needs; its message is above")
    importlib.invalidate_caches()
    if stale := replaced_while_loaded(before, installed_versions()):
        print(f"{', '.join(stale)} changed while in use: restart the session (Runtime > Restart session), then go on.")
    return asked


def replaced_while_loaded(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Packages that are imported in an older version than the one that is now installed."""
    changed = {name for name in before if after.get(name, before[name]) != before[name]}
    modules = metadata.packages_distributions()
    loaded = {name.partition(".")[0] for name in sys.modules}
    return sorted(changed & {dist.lower().replace("_", "-") for name in loaded for dist in modules.get(name, [])})


def gpu() -> tuple[str, float] | None:
    """The GPU's name and its memory in bytes; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return found.name, float(found.total_memory)


def fitting_profile(memory: float | None, ram: float, licensed: bool) -> str:
    """The profile with the largest model that a GPU of `memory` bytes and `ram` hold, by the sums of `dm_utils.needs`.

    Models with a licence are only for who has a Hugging Face token; without a GPU it is the lab.
    """
    if memory is None:
        return "lab"
    from dm_utils.world.needs import Machine, needs
    from dm_utils.world.profiles import load_profile, profile_names

    here = Machine("here", memory, ram, 1.0)
    found = [needs(load_profile(name)) for name in profile_names()]
    fitting = [one for one in found if one.fits(here) and (licensed or not one.shape.needs_licence)]
    return max(fitting, key=lambda one: one.shape.parameters).profile.name if fitting else "lab"


def prepare() -> None:
    """Make a Colab runtime ready: install what is missing, choose the default profile, and say so.

    The choice is the environment variable `DM_PROFILE`, which a chapter heeds where its `profile` is None; a profile
    that is set in the parameters cell, or by papermill, always wins.
    """
    if not in_colab():
        return
    install()
    import psutil
    from huggingface_hub import get_token

    device, ram = gpu(), float(psutil.virtual_memory().total)
    memory = device[1] if device else None
    found = f"GPU: {device[0]}, {device[1] / 1e9:.0f} GB" if device else "No GPU"
    if "DM_PROFILE" not in os.environ:
        chosen = fitting_profile(memory, ram, licensed=device is not None and get_token() is not None)
        os.environ["DM_PROFILE"] = chosen
        if (best := fitting_profile(memory, ram, licensed=True)) != chosen:
            print(
                f"{best!r} would fit: accept its licence on huggingface.co, add HF_TOKEN to Colab's secrets, restart."
            )
    print(f"{found}. The default profile here is {os.environ['DM_PROFILE']!r}.")
    print('To study another one, set `profile` in the cell of parameters, for example profile = "lab".')
