"""pyproject.toml, requirements.lock, environment.yml and the browser packages agree."""

import json
import platform
import re
import tomllib
from importlib import metadata

import pytest
import yaml
from demo import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WANTED = [
    Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["book"], *EXTRAS["jupyter"], *EXTRAS["test"]]
]
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]


def applies(pin: Requirement, python: str) -> bool:
    """Whether a pin is for this Python on Linux."""
    place = {"python_full_version": f"{python}.5", "python_version": python, "sys_platform": "linux"}
    return pin.marker is None or pin.marker.evaluate(place)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_dependency_is_locked_within_its_range(python: str) -> None:
    pins = {canonicalize_name(pin.name): pin for pin in LOCK if applies(pin, python)}
    for want in WANTED:
        pin = pins[canonicalize_name(want.name)]
        version = next(iter(pin.specifier)).version
        assert want.specifier.contains(version), f"{want} but the lock has {pin}"


def test_the_lock_pins_exact_public_versions_that_every_machine_can_install() -> None:
    for pin in LOCK:
        assert [spec.operator for spec in pin.specifier] == ["=="], pin
        assert "+" not in str(pin.specifier), f"{pin}: a local version exists on one index only"
        assert not re.match(r"nvidia-|cuda-|triton", pin.name), f"{pin}: torch brings what a GPU needs by itself"


def test_the_environment_that_runs_has_the_locked_versions() -> None:
    here = ".".join(platform.python_version_tuple()[:2])
    for pin in LOCK:
        if applies(pin, here) and canonicalize_name(pin.name) in {canonicalize_name(want.name) for want in WANTED}:
            installed = Version(metadata.version(pin.name)).public
            assert pin.specifier.contains(installed), f"{pin} is locked, {installed} is installed: run `make test`"


def test_conda_installs_the_same_lock_on_the_same_pythons() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(line for line in environment["dependencies"] if str(line).startswith("python"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert python.removeprefix("python") == PROJECT["requires-python"]
    assert pip == ["-r requirements.lock", "-e ."]


def test_the_browser_packages_are_locked_exactly() -> None:
    asked = json.loads((ROOT / "book/_ext/package.json").read_text())["dependencies"]
    locked = json.loads((ROOT / "book/_ext/package-lock.json").read_text())["packages"]
    assert locked[""]["dependencies"] == asked
    assert {name: locked[f"node_modules/{name}"]["version"] for name in asked} == asked
    assert all("integrity" in package for path, package in locked.items() if path)


def test_no_source_loads_what_can_run_code() -> None:
    """What SECURITY.md promises: safetensors, JSON and Parquet; no pickle, and no code that comes with a model."""
    forbidden = re.compile(
        r"torch\.load\(|\bimport pickle|pickle\.loads?\(|trust_remote_code=True|allow_pickle=True|\byaml\.load\(|\bos\.system\(|shell=True"
    )
    for path in (ROOT / "src").rglob("*.py"):
        found = [line for line in path.read_text().splitlines() if forbidden.search(line)]
        assert not found, f"{path}: {found}"
