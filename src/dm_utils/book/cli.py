"""The ``dm`` command: build the book, run one chapter, look at the result."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dm_utils.base.errors import BuildError, LoadError, ParameterError, require, shown
from dm_utils.base.secrets import redact

if TYPE_CHECKING:
    from dm_utils.engine.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The dark-matter book: build it, run it, serve it.")
ProfileOption = Annotated[str, typer.Option("--profile", help="What to study: a profile's name (see `dm profiles`).")]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}  # `-p NAME VALUE`, as papermill writes it


Timeout = Annotated[int | None, typer.Option(min=1, help="Seconds that a cell may take; without it, any time.")]


def read_values(words: list[str]) -> dict[str, str]:
    """Read ``-p NAME VALUE`` groups, each name once; the chapter says what type a value is."""
    groups = [words[i : i + 3] for i in range(0, len(words), 3)]
    for group in groups:
        if len(group) != 3 or group[0] != "-p":
            raise typer.BadParameter(
                f"{shown(' '.join(group))}: give parameters as `-p NAME VALUE`, for example `-p layer 2`"
            )
    names = [name for _, name, _ in groups]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise typer.BadParameter(f"{', '.join(twice)}: given more than once; give each parameter one value")
    return {name: value for _, name, value in groups}


def stop(error: Exception) -> None:
    """Say what went wrong and leave with a failure."""
    typer.secho(f"\n{redact(str(error))}", fg="red", err=True)
    raise typer.Exit(1)


@app.command(context_settings=PASS_ON)
def build(
    context: typer.Context,
    profile: ProfileOption = "lab",
    jobs: Annotated[int, typer.Option(min=1, help="How many chapters run at the same time.")] = 1,
    timeout: Timeout = None,
) -> None:
    """Execute every chapter that changed and build the site in `_build/html`; `-p NAME VALUE` sets a parameter everywhere."""
    from dm_utils.book.site import build_book

    start = time.monotonic()
    try:
        site = build_book(profile, read_values(context.args), jobs, timeout)
    except (BuildError, ParameterError, LoadError) as error:
        return stop(error)
    typer.secho(f"\nThe book is in {site} ({time.monotonic() - start:.0f} s).", fg="green")
    typer.echo("To read it: `make serve`, then open http://localhost:8000/")


@app.command(context_settings=PASS_ON)
def chapter(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The notebook's name, for example 04_2_error_vectors.")],
    profile: ProfileOption = "lab",
    timeout: Timeout = None,
) -> None:
    """Execute one chapter into `_build/runs/PROFILE/`; `-p NAME VALUE` replaces a parameter and may be repeated."""
    from dm_utils.book import parameters
    from dm_utils.book.build import execute, kernel_environment
    from dm_utils.book.execution import workers
    from dm_utils.book.layout import Layout, chapters

    try:
        given = {"profile": profile} | read_values(context.args)
        layout = Layout.find(given["profile"])
        require(name, chapters(layout), "chapter")
        notebook = layout.root / f"notebooks/{name}.ipynb"
        taken = parameters.takes(notebook)
        if given["profile"] == "lab" and "profile" not in taken.allowed:
            del given["profile"]  # a chapter that takes none studies the lab
        values = parameters.read(taken, given)
        folder = layout.build / "runs" / layout.profile
        with kernel_environment(folder / "tables", layout.store, jobs=1), workers(1) as (pool, kernels):
            seconds = pool.submit(execute, notebook, folder / notebook.name, values, 0, kernels, timeout).result()
    except (BuildError, ParameterError, LoadError) as error:
        return stop(error)
    typer.secho(f"{folder / notebook.name} ({seconds:.0f} s); its table is in {folder / 'tables'}", fg="green")


@app.command()
def profiles(
    selection: Annotated[
        str,
        typer.Option(help="Of SAEs: 'one SAE', 'nearest L0 per width', 'every SAE of the layer', 'one SAE per layer'."),
    ] = "nearest L0 per width",
) -> None:
    """List what can be studied, and what each profile needs: memory, disk, download, time."""
    from rich.console import Console
    from rich.table import Table

    from dm_utils.world.needs import table

    try:
        found = table(selection=selection)  # type: ignore[arg-type]
    except ParameterError as error:
        return stop(error)
    shown = Table(title=f"Profiles, with {selection} (computed from the sizes of model and SAEs)")
    for name in found.columns:
        shown.add_column(name, no_wrap=name == "profile")
    for row in found.astype(str).itertuples(index=False):
        shown.add_row(*row)
    Console(width=None if typer.get_text_stream("stdout").isatty() else 200).print(shown)


@app.command()
def export(
    profile: ProfileOption = "lab",
    name: Annotated[str, typer.Option(help="The name to publish under, where it is not the profile's.")] = "",
    tables: Annotated[
        Path | None, typer.Option(help="The folder of tables; by default, those of the built book.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Where to write; by default, where the book looks.")] = None,
) -> None:
    """Write a profile's results as one small file, which the book shows from then on; commit it to publish it."""
    from dm_utils.book.layout import Layout, chapters
    from dm_utils.book.published import FOLDER, export, read

    try:
        folder = tables or Layout.find(profile).executed / "tables"
        target = export(folder, name or profile, to or FOLDER)
        results = read(target)
        lacking = [] if tables else sorted(set(chapters(Layout.find(profile))) - {*results.chapters, "results"})
    except (BuildError, FileNotFoundError, ValueError) as error:
        return stop(error)
    size = target.stat().st_size / 2**10
    typer.secho(
        f"{target}: {len(results.rows)} results of {len(results.chapters)} chapters, {size:.0f} KiB", fg="green"
    )
    if lacking:
        typer.echo(f"Without results: {', '.join(lacking)}")


store_app = typer.Typer(no_args_is_help=True, help="The kept results: list them, check them, remove what is of no use.")
app.add_typer(store_app, name="store")
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="The folder of results; by default DM_STORE, else the checkout's.")
]


@contextlib.contextmanager
def opened(folder: Path | None) -> Iterator[Store]:
    """The store that a command works on; what is wrong with it is said in one line."""
    from dm_utils.book.layout import Layout
    from dm_utils.engine.store import Store

    try:
        yield Store(folder or os.environ.get("DM_STORE") or Layout.find().store)
    except (BuildError, LoadError, ParameterError) as error:
        stop(error)


@store_app.command("list")
def list_store(store: StoreOption = None) -> None:
    """List what is kept: kind, size, days since it was used, what computed it, and whether today's code would ask for it."""
    from dm_utils.engine import housekeeping

    with opened(store) as found:
        table = housekeeping.listing(found)
        if len(table):
            typer.echo(table.to_string(index=False, float_format=lambda value: f"{value:.1f}", max_colwidth=60))
        left = sum(path.stat().st_size for path in housekeeping.abandoned(found))
        typer.echo(f"{len(table)} entries, {table['MB'].sum():.1f} MB, in {found.root}")
        if left:
            typer.echo(f"{left / 1e6:.1f} MB of temporary files of killed runs: `dm store prune` removes them")


@store_app.command("check")
def check_store(store: StoreOption = None) -> None:
    """Read every entry as a study would, checksums included; fails if one is damaged."""
    from dm_utils.engine import housekeeping

    with opened(store) as found:
        problems = housekeeping.check(found)
        for problem in problems:
            typer.echo(problem)
        typer.echo(f"{len(problems)} of {len(housekeeping.entries(found))} entries are damaged, in {found.root}")
    if problems:
        raise typer.Exit(1)


@store_app.command("prune")
def prune_store(
    store: StoreOption = None,
    older_than: Annotated[float | None, typer.Option(min=0, help="Also what was not used for so many days.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
) -> None:
    """Remove what is damaged, what today's code would not ask for, and what killed runs left."""
    from dm_utils.engine import housekeeping

    with opened(store) as found:
        size = {entry: entry.size for entry in housekeeping.prune(found, older_than, dry_run=True)}
        gone = housekeeping.prune(found, older_than, dry_run)
        freed = sum(size.get(entry, 0) for entry in gone) / 1e6
        typer.echo(
            f"{len(gone)} entries, {freed:.1f} MB, {'would be' if dry_run else 'were'} removed from {found.root}"
        )


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0: a free one.")] = 8000,
) -> None:
    """Serve the built site on this machine only."""
    from dm_utils.book.layout import Layout

    site = Layout.find().html
    if not (site / "index.html").exists():
        return stop(BuildError("there is no built book yet: run `make book` first"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        why = f"port {port} cannot be listened on ({error.strerror}): give another one, for example `dm serve --port {port + 1}`"
        return stop(BuildError(why))
    with server:
        typer.echo(f"The book is at http://localhost:{server.server_port}/ (Ctrl-C stops)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")


if __name__ == "__main__":
    app()
