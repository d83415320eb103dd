"""Published results: one small file per profile, written where the hardware is and shown by the book everywhere.

`dm export` gathers the tables that the chapters wrote into `results/PROFILE.parquet` beside this module: the rows, and a small
header that says how they were made. The page "Results by profile" shows those files beside the results of its own build.
"""

from __future__ import annotations

import datetime
import io
import json
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dm_utils import __version__
from dm_utils.base.errors import ParameterError
from dm_utils.base.files import write_atomic
from dm_utils.base.words import interval, label, number
from dm_utils.book.chapter import COLUMNS
from dm_utils.book.parameters import assigned_literals
from dm_utils.world.profiles import load_profile, profile_names

FOLDER = Path(__file__).parent / "results"
FORMAT = 2
NUMBERS = ("d_sae", "l0", "value", "ci_low", "ci_high")
CORE = {
    "chapter",
    "profile",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "paper_value",
}  # what a table of results has at least
TEXT = [name for name in COLUMNS if name not in NUMBERS]
HEADER = b"dm_results"  # the header's place in the metadata of a Parquet file


@dataclass(frozen=True)
class Results:
    """The results of one profile: its chapters' rows in the columns of the book's tables, and how they were made."""

    profile: str
    title: str
    made: dict[str, Any]
    rows: pd.DataFrame

    @property
    def chapters(self) -> list[str]:
        """The chapters that have results, in the book's order of names."""
        return sorted(self.rows["chapter"].unique())


def gather(tables: Path) -> pd.DataFrame:
    """Read every chapter's table in a folder. Tables of other things, and the page of results itself, are left out.

    A table that an earlier version of the book wrote may lack columns of today; they are empty then.

    Raises
    ------
    FileNotFoundError : the folder holds no chapter's table.
    """
    paths = [path for path in sorted(tables.glob("*.csv")) if path.stem != "results"]
    found = [pd.read_csv(path, dtype=dict.fromkeys(TEXT, str)) for path in paths]
    found = [table for table in found if set(table.columns) >= CORE]
    if not found:
        raise FileNotFoundError(f"{tables} holds no results: run the chapters first (`dm build --profile NAME`)")
    return _shaped(pd.concat([table for table in found if len(table)], ignore_index=True))


def _shaped(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in today's columns and types; text that is missing is empty."""
    rows = rows.reindex(columns=COLUMNS).astype(dict.fromkeys(NUMBERS, float) | dict.fromkeys(TEXT, object))
    return rows.fillna(dict.fromkeys(TEXT, ""))


def export(tables: Path, profile: str, folder: Path = FOLDER) -> Path:
    """Write the results of a folder of tables as one file under the name of a profile; return the file.

    What the notebooks beside the tables were given by papermill is recorded with them.
    """
    rows = gather(tables)
    if not profile.replace("-", "").replace(".", "").replace("_", "").isalnum():
        raise ParameterError(
            f"profile = {profile!r}: a published profile's name has letters, digits, '-', '_' and '.' only"
        )
    title = load_profile(profile).title if profile in profile_names() else profile
    made = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "dm_utils": __version__,
        "python": platform.python_version(),
        "device": device_name(),
        "parameters": injected(tables.parent),
    }
    header = {"format": FORMAT, "profile": profile, "title": title, "made": made}
    table = pa.Table.from_pandas(rows.assign(profile=profile), preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({HEADER: json.dumps(header).encode()}), buffer, compression="zstd")
    target = folder / f"{profile}.parquet"
    write_atomic(target, buffer.getvalue())
    return target


def device_name() -> str:
    """What computes here: the GPU's name, or CPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def injected(folder: Path) -> dict[str, Any]:
    """The parameters that papermill gave to the executed notebooks of a folder."""
    found: dict[str, Any] = {}
    for path in [path for path in sorted(folder.glob("*.ipynb")) if "." not in path.stem]:  # none that failed or runs
        for cell in json.loads(path.read_text())["cells"]:
            if "injected-parameters" in cell["metadata"].get("tags", []):
                found |= assigned_literals("".join(cell["source"])) or {}
    return {name: value for name, value in found.items() if name != "profile"}


def read(path: Path) -> Results:
    """Read a published file.

    Raises
    ------
    ValueError : it is not one, or of another format; says what to do.
    """
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {})[HEADER])
        if header["format"] != FORMAT or not set(table.column_names) >= CORE:
            raise ValueError("it was written by another version of the book")
        return Results(header["profile"], header["title"], header["made"], _shaped(table.to_pandas()))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of results ({error}): write it again with `dm export`") from error


def published(tables: Path | None = None, folder: Path = FOLDER) -> list[Results]:
    """Every profile that there are results for: those of this build first, then the published files.

    `tables` is where this build's chapters write; a published file of the same profile gives way to it. The environment
    variable `DM_RESULTS` names another folder of published files.
    """
    tables = tables or Path(os.environ.get("DM_TABLES", "tables"))
    found: dict[str, Results] = {}
    for path in sorted(Path(os.environ.get("DM_RESULTS", folder)).glob("*.parquet"), key=lambda path: path.stem):
        one = read(path)
        found[one.profile] = one
    if any(path.stem != "results" for path in tables.glob("*.csv")):
        for name, rows in gather(tables).groupby("profile", sort=False):
            title = load_profile(str(name)).title if name in profile_names() else str(name)
            fresh = Results(str(name), title, {"device": device_name()}, rows.reset_index(drop=True))
            found = {fresh.profile: fresh} | {other: one for other, one in found.items() if other != name}
    if not found:
        raise ParameterError(
            f"there are no results yet: no table in {tables}, and no published file in {folder}. Run chapters first, in this "
            "folder; each writes its table when it ends"
        )
    return list(found.values())


def paper_range(text: str) -> tuple[float, float] | None:
    """The reported value, or the two ends of the range, that stands in a table's `paper_value`; None where none does."""
    try:
        ends = [float(end.replace(",", "")) for end in text.split("..")]
    except ValueError:
        return None
    return (min(ends), max(ends)) if all(math.isfinite(end) for end in ends) else None


def reported_rows(results: list[Results]) -> pd.DataFrame:
    """The rows that have a reported value, with its range (`paper_low`, `paper_high`) and a readable `name`.

    `quantity` is the name, with the reported value where the paper has several for it.
    """
    rows = pd.concat([one.rows for one in results], ignore_index=True)
    ranges = rows["paper_value"].map(paper_range)
    kept = rows[ranges.notna()].copy()
    kept[["paper_low", "paper_high"]] = ranges[ranges.notna()].tolist()
    kept["name"] = [_quantity(label(str(row.metric)), str(row.figure)) for row in kept.itertuples()]
    several = kept.groupby("name")["paper_value"].transform("nunique") > 1
    said = " beside " + kept["paper_value"].str.replace("..", " to ", regex=False)
    counts = kept.groupby("name")["ci_low"].transform("count") == 0  # without intervals: last
    return kept.assign(quantity=kept["name"] + said.where(several, ""), last=counts).sort_values("last", kind="stable")


def _quantity(name: str, figure: str) -> str:
    place = f"Fig. {figure}" if figure[:1].isdigit() else figure
    return f"{name}; {place}" if figure else name


def overview(results: list[Results]) -> pd.DataFrame:
    """One line per profile: how many results of how many chapters, and how they were made."""
    lines = []
    for one in results:
        given = ", ".join(f"{name} = {value}" for name, value in one.made.get("parameters", {}).items())
        line = {"Profile": one.profile, "Model": one.title, "Results": len(one.rows), "Chapters": len(one.chapters)}
        line |= {"Revision": ", ".join(sorted({text[:10] for text in one.rows["model_revision"] if text})) or "–"}
        line |= {"Made on": one.made.get("device", "–"), "Date": one.made.get("date", "this build")}
        lines.append(line | {"Parameters": given or "the profile's own"})
    return pd.DataFrame(lines)


def side_by_side(results: list[Results]) -> pd.DataFrame:
    """The table "paper and every profile": one line per reported quantity; many results are shown as a spread."""
    rows, lines = reported_rows(results), []
    for (quantity, said), part in rows.groupby(["name", "paper_value"], sort=False):
        line = {"Quantity": str(quantity), "Paper": str(said).replace("..", " to ")}
        for one in results:
            line[one.profile] = _spread(part[part["profile"] == one.profile])
        lines.append(line)
    return pd.DataFrame(lines)


def _spread(part: pd.DataFrame) -> str:
    if part.empty:
        return "–"
    first = part.iloc[0]
    if len(part) == 1:
        return interval(first["value"], first["ci_low"], first["ci_high"])
    return f"{number(part['value'].min())} to {number(part['value'].max())} ({len(part)} results)"
