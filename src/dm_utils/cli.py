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
ParameterOption = Annotated[
    list[tuple[str, str]] | None,
    typer.Option("-p", "--parameter", help="A parameter's name and value, for example `-p layer 2`; may be repeated."),
]


def read_values(pairs: list[tuple[str, str]] | None) -> dict[str, Any]:
    """Read ``-p name value`` pairs; a value is a number, true/false or a list where it looks like one, else text."""
    return {name: yaml.safe_load(value) for name, value in pairs or []}


def stop(error: Exception) -> None:
    """Say what went wrong and leave with a failure."""
    typer.secho(f"\n{error}", fg="red", err=True)
    raise typer.Exit(1)


@app.command()
def build(
    profile: ProfileOption = "lab",
    parameter: ParameterOption = None,
    jobs: Annotated[int, typer.Option(help="How many chapters run at the same time.")] = 1,
) -> None:
    """Execute every chapter that changed and build the site in `_build/html`."""
    from .build import BuildError, build_book

    start = time.monotonic()
    try:
        site = build_book(profile, read_values(parameter), jobs)
    except BuildError as error:
        return stop(error)
    typer.secho(f"\nThe book is in {site} ({time.monotonic() - start:.0f} s).", fg="green")
    typer.echo("To read it: `make serve`, then open http://localhost:8000/")


@app.command()
def chapter(
    name: Annotated[str, typer.Argument(help="The notebook's name, for example 04_2_error_vectors.")],
    profile: ProfileOption = "lab",
    parameter: ParameterOption = None,
) -> None:
    """Execute one chapter into `_build/runs/PROFILE/`, with any of its parameters replaced."""
    from .build import BuildError, Layout, execute, kernel_environment

    layout = Layout.find(profile)
    notebook = layout.root / f"notebooks/{Path(name).stem}.ipynb"
    if not notebook.exists():
        known = ", ".join(sorted(path.stem for path in notebook.parent.glob("*.ipynb")))
        return stop(BuildError(f"there is no chapter {name!r}; the chapters are {known}"))
    folder = layout.build / "runs" / profile
    values = {"profile": profile} | read_values(parameter)
    try:
        with kernel_environment(folder / "tables", jobs=1):
            seconds = execute(notebook, folder / notebook.name, values)
    except BuildError as error:
        return stop(error)
    typer.secho(f"{folder / notebook.name} ({seconds:.0f} s); its table is in {folder / 'tables'}", fg="green")


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
) -> None:
    """Serve the built site on this machine only."""
    from .build import BuildError, Layout

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


if __name__ == "__main__":
    app()
