"""Faults that can be planted in a module, each a change of one place: what `tests/mutate.py` plants.

What cannot change a number, a key, a check or a verdict is left alone: annotations, docstrings, the words of errors, logs and bars,
and whether a zip of equally many things is strict.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,), ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,), ast.Pow: (ast.Mult,), ast.And: (ast.Or,), ast.Or: (ast.And,),
}  # fmt: skip
TOLERANCE = 0.01  # a smaller constant is a tolerance: it grows by so much that it lets something through
CONVERSIONS = {"int", "float", "str", "bool", "list", "tuple", "set", "dict", "iter", "frozenset", "cast", "repr"}
SYMMETRIC = {"min", "max"}  # of two arguments: their order is no matter
TYPES = {"Callable", "Float", "Int", "Bool", "dict", "list", "tuple", "set"}  # in their brackets stand types
SILENT = {"tqdm", "log", "warnings", "echo"}  # calls that say something to the user alone


@dataclass(frozen=True)
class Fault:
    """One change: the node (its place in a walk of the tree), the line, what stood there and what stands there now."""

    index: int
    line: int
    before: str
    after: str
    changed: ast.AST


def faults(source: str) -> list[Fault]:
    """Every fault that can be planted in a module, in the order of its lines."""
    tree = ast.parse(source)
    places = {id(node): index for index, node in enumerate(ast.walk(tree))}
    found = [
        Fault(places[id(node)], node.lineno, ast.unparse(node), ast.unparse(changed) or "(nothing)", changed)
        for node in _mutable(tree)
        for changed in _changes(node)
    ]
    return sorted((fault for fault in found if fault.before != fault.after), key=lambda fault: fault.line)


def plant(source: str, fault: Fault) -> str:
    """The module with the fault in it."""
    tree = ast.parse(source)
    old = next(node for index, node in enumerate(ast.walk(tree)) if index == fault.index)
    old.__class__, old.__dict__ = fault.changed.__class__, {**fault.changed.__dict__}
    return ast.unparse(ast.fix_missing_locations(tree))


def _mutable(node: ast.AST) -> Iterator[Any]:
    """The nodes below one that may change: not its annotations, nor what only words an error or a message."""
    silent = isinstance(node, ast.Call) and bool(SILENT & set(ast.unparse(node.func).split(".")))
    typed = isinstance(node, ast.Subscript) and ast.unparse(node.value) in TYPES
    strict = isinstance(node, ast.keyword) and node.arg == "strict"
    for name, field in ast.iter_fields(node):
        unseen = name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise) or name == "msg"
        unseen = unseen or strict or (typed and name == "slice")
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST) and not unseen and not (silent and name != "args"):
                yield child
                yield from _mutable(child)


def _changes(node: Any) -> Iterator[ast.AST]:
    """The nodes that may take a node's place."""
    match node:
        case ast.Compare(ops=[op]):
            yield from (_with(node, ops=[other()]) for other in SWAPS[type(op)])
        case ast.BinOp(op=op) | ast.BoolOp(op=op):
            yield from (_with(node, op=other()) for other in SWAPS.get(type(op), ()))
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() | int() | float() as value):
            yield ast.copy_location(ast.Constant(_other(value)), node)
        case ast.If(test=test) | ast.IfExp(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[_, *_]):
            pass  # a comprehension has no line of its own: its comparisons change by themselves
        case ast.Raise():
            yield ast.copy_location(ast.Pass(), node)
        case ast.Expr(value=ast.Call() as call) if _speaks(call):
            yield ast.copy_location(ast.Pass(), node)
        case ast.Dict(keys=[_, *_]):
            for at in range(len(node.keys)):
                yield _with(node, keys=_without(node.keys, at), values=_without(node.values, at))
        case ast.List(elts=[_, _, *_], ctx=ast.Load()) | ast.Set(elts=[_, _, *_]):
            yield from (_with(node, elts=_without(node.elts, at)) for at in range(len(node.elts)))
        case ast.Tuple(elts=[_, _, *_] as elements) if all(isinstance(one, ast.Constant) for one in elements):
            yield from (_with(node, elts=_without(elements, at)) for at in range(len(elements)))
        case ast.Call():
            yield from _calls(node)


def _calls(call: ast.Call) -> Iterator[ast.AST]:
    """A call with two arguments swapped, without one of its keywords, or with its argument in its place."""
    if not _speaks(call):
        return
    name = ast.unparse(call.func).split(".")[-1]
    if (
        len(call.args) > 1
        and name not in SYMMETRIC
        and not any(isinstance(each, ast.Starred) for each in call.args[:2])
    ):
        yield _with(call, args=[call.args[1], call.args[0], *call.args[2:]])
    for at in [at for at, keyword in enumerate(call.keywords) if keyword.arg != "strict"]:
        yield _with(call, keywords=_without(call.keywords, at))
    if len(call.args) == 1 and not call.keywords and name not in CONVERSIONS and name[0].islower():
        yield call.args[0]


def _speaks(call: ast.Call) -> bool:
    return not SILENT & set(ast.unparse(call.func).split("."))


def _other(value: float) -> float:
    """Another constant of the same kind, near enough to look right."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int) or value == 0:
        return value + 1
    return value * (1e4 if abs(value) < TOLERANCE else 2)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _without(elements: list[Any], at: int) -> list[Any]:
    return elements[:at] + elements[at + 1 :]
