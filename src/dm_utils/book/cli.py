"""The ``dm`` command: build the book, run one chapter, look at the result."""

from __future__ import annotations

import functools
import http.server
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The dark-matter book: build it, run it, serve it.")
ProfileOption = Annotated[str, typer.Option("--profile", help="What to study: a profile's name (see `dm profiles`).")]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}  # `-p NAME VALUE`, as papermill writes it


def read_values(words: list[str]) -> dict[str, Any]:
    """Read ``-p NAME VALUE`` groups; a value is a number, true/false or a list where it looks like one, else text."""
    groups = [words[i : i + 3] for i in range(0, len(words), 3)]
    for group in groups:
        if len(group) != 3 or group[0] != "-p":
            raise typer.BadParameter(
                f"{' '.join(group)!r}: give parameters as `-p NAME VALUE`, for example `-p layer 2`"
            )
    return {name: yaml.safe_load(value) for _, name, value in groups}


def stop(error: Exception) -> None:
    """Say what went wrong and leave with a failure."""
    typer.secho(f"\n{error}", fg="red", err=True)
    raise typer.Exit(1)


@app.command(context_settings=PASS_ON)
def build(
    context: typer.Context,
    profile: ProfileOption = "lab",
    jobs: Annotated[int, typer.Option(help="How many chapters run at the same time.")] = 1,
) -> None:
    """Execute every chapter that changed and build the site in `_build/html`; `-p NAME VALUE` sets a parameter everywhere."""
    from dm_utils.book.build import BuildError, build_book

    start = time.monotonic()
    try:
        site = build_book(profile, read_values(context.args), jobs)
    except BuildError as error:
        return stop(error)
    typer.secho(f"\nThe book is in {site} ({time.monotonic() - start:.0f} s).", fg="green")
    typer.echo("To read it: `make serve`, then open http://localhost:8000/")


@app.command(context_settings=PASS_ON)
def chapter(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The notebook's name, for example 04_2_error_vectors.")],
    profile: ProfileOption = "lab",
) -> None:
    """Execute one chapter into `_build/runs/PROFILE/`; `-p NAME VALUE` replaces a parameter and may be repeated."""
    from dm_utils.book.build import BuildError, Layout, execute, kernel_environment

    layout = Layout.find(profile)
    notebook = layout.root / f"notebooks/{Path(name).stem}.ipynb"
    if not notebook.exists():
        known = ", ".join(sorted(path.stem for path in notebook.parent.glob("*.ipynb")))
        return stop(BuildError(f"there is no chapter {name!r}; the chapters are {known}"))
    folder = layout.build / "runs" / profile
    values = {"profile": profile} | read_values(context.args)
    try:
        with kernel_environment(folder / "tables", layout.store, jobs=1):
            seconds = execute(notebook, folder / notebook.name, values)
    except BuildError as error:
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

    from dm_utils.base.errors import ParameterError
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
    from dm_utils.book.build import BuildError, Layout, chapters
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


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
) -> None:
    """Serve the built site on this machine only."""
    from dm_utils.book.build import BuildError, Layout

    site = Layout.find().html
    if not (site / "index.html").exists():
        return stop(BuildError("there is no built book yet: run `make book` first"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        typer.echo(f"The book is at http://localhost:{server.server_port}/ (Ctrl-C stops)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")


@app.command()
def clear(notebooks: Annotated[list[Path], typer.Argument(help="Notebooks to clear.", exists=True)]) -> None:
    """Remove outputs, execution counts and injected cells from notebooks, as they are committed."""
    import nbformat

    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        kept = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
        for cell in kept:
            cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        notebook.cells = kept
        notebook.metadata.pop("papermill", None)
        notebook.metadata.pop("widgets", None)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    app()
