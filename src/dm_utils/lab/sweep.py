"""What commands that train many runs share: numbers as options, and runs done one by one with a table of what is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from tqdm.auto import tqdm

from dm_utils.base.errors import ParameterError, require

Report = Mapping[str, Any]


class Named(Protocol):
    """A run, by name."""

    @property
    def id(self) -> str:
        """What messages call it."""


R = TypeVar("R", bound=Named)


def numbers(text: str, what: str) -> list[int]:
    """Whole numbers, separated by commas; raises ParameterError for anything else."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"{what} = {text!r}: give whole numbers separated by commas, such as 512,1024") from None


def chosen(text: str, there: Iterable[str], what: str) -> list[str]:
    """Names of `there`, separated by commas, or all of them; raises ParameterError for one that is not there."""
    names = [name.strip() for name in text.split(",") if name.strip()] or list(there)
    for name in names:
        require(name, there, what)
    return names


def work_through(todo: Sequence[R], do: Callable[[R], Report], write: Callable[[dict[str, str]], None]) -> None:
    """Do runs one by one, and `write` the table anew after each, given what broke off by the run's id: others need not wait for it."""
    failed: dict[str, str] = {}
    for run in tqdm(todo, desc="runs", unit="run"):
        try:
            row = do(run)
            tqdm.write(f"{run.id}: FVU {row['fvu']:.3f}, nonlinear {row['fvu_nonlinear']:.3f}")
        except FloatingPointError as error:
            failed[run.id] = str(error)
            tqdm.write(f"{run.id}: {error}")
        write(failed)
