"""What a chapter takes: the names that its notebook declares, a type for each, and values read and checked by them.

One check for both roads: `dm` makes it before papermill sees anything; a chapter that papermill runs makes it as it starts.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Any, get_args, get_origin

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from dm_utils.base import secrets
from dm_utils.base.errors import ParameterError, require, shown
from dm_utils.world.profile import Profile
from dm_utils.world.profiles import load_profile

INJECTED = "# Parameters"  # the first line of the cell that papermill adds
FIELDS = {name for name in Profile.model_fields if name not in ("name", "title")}
STRICT = ConfigDict(strict=True, allow_inf_nan=False)
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
LONGEST = 1000  # characters of a text; longer is no name, path or address of anything
NOTHING = ("none", "null", "~")
TEXT_FIELDS = {"model", "model_revision", "dataset", "dataset_revision", "split_by", "dtype", "device"}


@dataclass(frozen=True)
class Declared:
    """One parameter as a chapter declares it: its type, and the chapter's own value."""

    kind: Any
    default: Any


@dataclass(frozen=True)
class Takes:
    """Everything that a chapter takes: what it declares, and the fields of a profile but for those that it fixes."""

    declared: Mapping[str, Declared]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def allowed(self) -> list[str]:
        """The names of parameters, the chapter's own first."""
        names = ({"profile"} | FIELDS) - self.fixed.keys() | self.declared.keys()
        return sorted(names, key=lambda name: (name not in self.declared, name))


class _Infinities(ast.NodeTransformer):
    """`float('inf')`, which papermill writes where Python has no literal, as the constant that it stands for."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A call of `float` with one plain value becomes that number; any other stays."""
        if isinstance(node.func, ast.Name) and node.func.id == "float" and len(node.args) == 1:
            return ast.copy_location(ast.Constant(float(ast.literal_eval(node.args[0]))), node)
        return node


def assignments(source: str) -> dict[str, Declared] | None:
    """What a cell assigns if it does nothing but assign plain values (as a `parameters` cell does), else None."""
    found: dict[str, Declared] = {}
    try:
        for statement in _Infinities().visit(ast.parse(source)).body:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if (
                not isinstance(statement, ast.Assign | ast.AnnAssign)
                or not statement.value
                or len(names) < len(targets)
            ):
                return None
            value = ast.literal_eval(statement.value)
            kind = _annotated(statement) if isinstance(statement, ast.AnnAssign) else kind_of(value)
            found |= dict.fromkeys(names, Declared(kind, value))
    except (SyntaxError, ValueError, TypeError, NameError, RecursionError, MemoryError):
        return None
    return found


def assigned_literals(source: str) -> dict[str, Any] | None:
    """The values that a cell assigns if it does nothing else, by name."""
    found = assignments(source)
    return None if found is None else {name: one.default for name, one in found.items()}


def _annotated(statement: ast.AnnAssign) -> Any:
    """The type that a declaration writes after its name; of Python's own types only."""
    known = {name: getattr(builtins, name) for name in ("int", "float", "str", "bool", "list", "dict")}
    code = compile(ast.Expression(statement.annotation), "<parameters>", "eval")
    return eval(code, {"__builtins__": {}}, known)


def kind_of(default: Any) -> Any:
    """The type that a chapter's own value stands for; None stands for anything."""
    if default is None:
        return Any
    if isinstance(default, list) and default:
        return GenericAlias(list, (type(default[0]),))
    return type(default)


def takes(notebook: Path) -> Takes:
    """Read what a notebook takes: its cell tagged `parameters`, and what it gives `dm.Chapter` as fixed."""
    declared: dict[str, Declared] = {}
    fixed: dict[str, Any] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", []):
            declared = assignments(source) or {}
        elif cell["cell_type"] == "code" and "dm.Chapter(" in source:
            calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
            chapter = next(call for call in calls if getattr(call.func, "attr", "") == "Chapter")
            fixed = next((ast.literal_eval(key.value) for key in chapter.keywords if key.arg == "fixed"), {})
    return Takes(declared, fixed)


def read(chapter: Takes, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a chapter from what a command line gave: each text is read by the type of its parameter, all are checked.

    Raises
    ------
    ParameterError : a name that the chapter does not take, a value that cannot be read, is of another type or out of range.
    """
    for name in given:
        require(name, chapter.allowed, "parameter")
    values = {name: _read(name, text, _kind(chapter, name)) for name, text in given.items()}
    check(chapter, values)
    study_profile(values | {name: value for name, value in chapter.fixed.items() if name not in values})
    return values


def _kind(chapter: Takes, name: str) -> Any:
    """What a parameter is read as: the profile's type of its fields, else the chapter's own."""
    own = chapter.declared.get(name)
    if own is not None and own.default is not None:
        return own.kind
    if name in FIELDS:
        if name in TEXT_FIELDS:
            return str | None
        annotation = Profile.model_fields[name].annotation
        return annotation | None if annotation in (int, float, bool) else _optional_number(annotation)
    return str | None if name == "profile" else own.kind if own is not None else Any


def _optional_number(annotation: Any) -> Any:
    """`int | None` of a field that may be left open; anything for the releases."""
    return int | None if int in get_args(annotation) or "int" in str(annotation) else Any


def _read(name: str, text: Any, kind: Any) -> Any:
    """One value from its text."""
    members = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if not isinstance(text, str):
        return text
    if (kind is Any or type(None) in members) and text.strip().lower() in NOTHING:
        return None
    try:
        if str in members:
            return text
        if kind is Any or any(get_origin(member) or member in (list, dict) for member in members):
            return yaml.safe_load(text)
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(text)
    except (ValidationError, yaml.YAMLError, ValueError, RecursionError):
        allowed = Profile.model_fields[name].description if name in FIELDS else in_words(kind)
        raise ParameterError(f"{name} = {shown(text)}: it must be {allowed}") from None


def in_words(kind: Any) -> str:
    """A type as a refusal names it."""
    if kind is Any:
        return "a number, text, or a list of either in brackets"
    if isinstance(kind, UnionType):
        return " or ".join(in_words(member) for member in get_args(kind))
    if get_origin(kind) is list:
        return "a list of " + {int: "whole numbers", float: "numbers", str: "texts"}.get(get_args(kind)[0], "values")
    return WORDS.get(kind, "a list")


def check(chapter: Takes, values: Mapping[str, Any]) -> None:
    """Refuse a value of another type than the chapter declares, and one that would write a secret into a notebook.

    The profile checks its own fields.
    """
    for name, value in values.items():
        if isinstance(value, str) and (holder := secrets.held_in(value)):
            raise ParameterError(f"{name} holds the value of {holder}; parameters are stored with a notebook's results")
        if isinstance(value, str) and not (len(value) <= LONGEST and all(mark.isprintable() for mark in value)):
            raise ParameterError(
                f"{name} = {shown(value)}: it must be text on one line, {LONGEST:,} characters at most"
            )
        own = chapter.declared.get(name)
        if own is None or (name in FIELDS and value is None):
            continue
        try:
            TypeAdapter(own.kind, config=STRICT).validate_python(value)
        except ValidationError:
            text = f"{name} = {shown(value)}: it must be {in_words(own.kind)}"
            raise ParameterError(f"{text}; the chapter's own value is {shown(own.default)}") from None


def study_profile(values: Mapping[str, Any]) -> Profile:
    """The profile that parameters name, with their overrides, checked; without a name, that of `DM_PROFILE` or the lab."""
    named = values.get("profile")
    overrides = {name: value for name, value in values.items() if name in FIELDS}
    profile = load_profile(os.environ.get("DM_PROFILE", "lab") if named is None else named, **overrides)
    _check_device(profile.device)
    return profile


def _check_device(device: str) -> None:
    """Refuse a GPU that this machine does not have; asks PyTorch only about what is not there everywhere."""
    if device in ("auto", "cpu"):
        return
    import torch

    there = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    there += ["cuda"] if torch.cuda.is_available() else []
    there += ["mps"] if torch.backends.mps.is_available() else []
    require(device, there, "device")


def in_notebook(namespace: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the notebook that runs, checked; `namespace` is its `globals()`.

    Raises
    ------
    ParameterError : naming the parameter, what was given, what is allowed and the nearest valid name.
    """
    declared: dict[str, Declared] = {}
    injected: set[str] = set()
    for source in namespace.get("In", []):
        if source.startswith(INJECTED):
            injected |= _names(source)
        else:
            declared = (assignments(source) or {}) | declared
    chapter = Takes(declared, fixed)
    for name in injected:
        require(name, chapter.allowed, "parameter")
    names: Iterable[str] = namespace.keys() & ({"profile"} | FIELDS)
    if "In" in namespace:
        names = declared.keys() | injected
    values = {name: namespace[name] for name in sorted(names)}
    check(chapter, values)
    return values | dict(fixed)


def _names(source: str) -> set[str]:
    """The names in the cell that papermill added; it writes names as they were given, so one may be code."""
    found = assignments(source)
    if found is None:
        text = source.removeprefix(INJECTED).strip()
        raise ParameterError(f"the injected parameters are more than names and plain values: {shown(text)}")
    return set(found)
