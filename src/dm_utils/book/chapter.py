"""What every chapter does the same way: check its parameters, number its figures, keep and compare its results."""

from __future__ import annotations

import html
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dm_utils.base import secrets
from dm_utils.base.errors import require
from dm_utils.base.words import as_html, code, escape
from dm_utils.book import parameters
from dm_utils.book.display import caption_html, table_html
from dm_utils.book.paper import VALUES, comparison, reported

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from dm_utils.engine.study import Study
    from dm_utils.maths.resampling import Estimate
    from dm_utils.world.sae_ref import SaeRef

COLUMNS = ["chapter", "figure", "profile", "model", "hook_name", "sae_id", "d_sae", "l0", "metric", "value", "ci_low"]
COLUMNS += ["ci_high", "paper_value", "sae_revision", "model_revision", "dataset_revision"]


def silence_progress() -> None:
    """Keep progress bars out of the book's pages; tqdm's notebook bar does not heed ``TQDM_DISABLE``."""
    from tqdm.auto import tqdm

    start = tqdm.__init__
    tqdm.__init__ = lambda bar, *given, **options: start(bar, *given, **(options | {"disable": True}))  # type: ignore[method-assign]


class Discreet(logging.Formatter):
    """Messages without secrets: a server may say anything back, and a notebook stores what is shown."""

    def format(self, record: logging.LogRecord) -> str:
        """The message with the secrets taken out."""
        return secrets.redact(super().format(record))


def show_messages() -> None:
    """Show what the package says while it works: device and dtype, retries, smaller batches."""
    log = logging.getLogger("dm_utils")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(Discreet())
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def notebook_shell() -> Any:
    """The shell of the notebook that runs, or None; looks only where one can be."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


class Chapter:
    """One chapter of the book as it runs: its checked parameters, its study, its figures and its table of results.

    Parameters
    ----------
    name : str
        The notebook's name without its suffix.
    namespace : mapping
        The notebook's ``globals()``, called right after the ``parameters`` cell.
    fixed : mapping
        Parameters that this chapter settles itself.

    Raises
    ------
    ParameterError
        If a parameter is unknown, of the wrong type or out of range; before PyTorch or any model is loaded.

    What is `fixed` holds whatever is injected, and no such parameter is taken unless the chapter declares it.
    A `profile` of None is the one that the environment variable ``DM_PROFILE`` names (in Colab, what fits its GPU), else the lab.
    """

    def __init__(self, name: str, namespace: Mapping[str, Any], fixed: Mapping[str, Any] | None = None) -> None:
        secrets.guard(notebook_shell())
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = secrets.loopback_is_direct()
        self.name = name
        self.parameters = parameters.in_notebook(namespace, fixed or {})
        self.profile = parameters.study_profile(self.parameters)
        self.rows: list[dict[str, Any]] = []
        if self.in_book:
            silence_progress()
        else:
            show_messages()

    def _repr_markdown_(self) -> str:
        p = self.profile
        kept = p.n_contexts * p.kept_per_context
        return (
            f"*This run: {escape(p.title)} (profile {code(p.name)}), layer {p.layer}, {p.n_contexts} contexts of {p.ctx_len} tokens, "
            f"{kept:,} of them kept.*"
        )

    @cached_property
    def study(self) -> Study:
        """The study of this chapter's profile; loads nothing until it is asked for results."""
        import dm_utils.dictionaries  # noqa: F401 so that SAELens can load what only this package knows
        from dm_utils.engine.study import Study

        return Study(self.profile)

    def figure(self, chart: alt.TopLevelMixin, number: str, caption: str, alt: str) -> None:
        """Show a chart with its number and caption; ``alt`` says in words what the chart shows.

        ``$…$`` in the caption is typeset as mathematics; names from outside go through ``dm.display.escape``.
        """
        from IPython.display import HTML, display

        if not alt.strip() or not caption.strip():
            raise ValueError(f"figure {number} of {self.name} needs both a caption and an alt text")
        chart.description = f"Figure {number}. {alt}"  # type: ignore[attr-defined]
        display(chart)
        lead = f"<strong>Figure {as_html(number)}.</strong>"
        display(HTML(f'<p class="dm-caption mathjax_process">{lead} {caption_html(caption)}</p>'))

    def record(
        self,
        metric: str,
        value: Estimate | SimpleNamespace | float,
        figure: str = "",
        sae: Any = None,
        paper_value: str | float | None = None,
    ) -> None:
        """Keep one result for the table of this chapter.

        Parameters
        ----------
        metric : str
            The result's name; ``dm.display.LABELS`` holds how it is written.
        value : Estimate or float
            The result, with its interval if it has one.
        figure : str
            The figure of the paper that it belongs to.
        sae : SaeRef or row of a table, optional
            What was measured: anything with ``id``/``sae_id``, ``hook_name``, ``d_sae``, ``l0`` and ``sae_revision``/``commit``.
        paper_value : str or float, optional
            A key of :data:`dm_utils.paper.VALUES`, or a number.
        """
        if isinstance(paper_value, str):
            require(paper_value, VALUES, "reported value")
        row = dict.fromkeys(COLUMNS) | {"chapter": self.name, "figure": figure, "metric": metric}
        row |= {"profile": self.profile.name, "model": self.profile.model, "paper_value": paper_value}
        row |= {"value": float(getattr(value, "value", value))}
        row |= {"ci_low": getattr(value, "low", math.nan), "ci_high": getattr(value, "high", math.nan)}
        if sae is not None:
            row["sae_id"] = getattr(sae, "sae_id", None) or getattr(sae, "id", None)
            row |= {name: getattr(sae, name, None) for name in ("hook_name", "d_sae", "l0")}
            row["sae_revision"] = getattr(sae, "sae_revision", None) or getattr(sae, "commit", None)
        self.rows.append(row)

    def record_table(
        self,
        table: pd.DataFrame,
        metrics: Sequence[str],
        figure: str = "",
        paper: Mapping[str, str | float] | None = None,
    ) -> None:
        """Keep several metrics of a table as :meth:`Study.measure` returns it; ``paper`` maps a metric to a reported value."""
        for row in table.itertuples(index=False):
            for metric in metrics:
                value = getattr(row, metric)
                low, high = (getattr(row, f"{metric}_{side}", math.nan) for side in ("low", "high"))
                self.record(
                    metric, SimpleNamespace(value=value, low=low, high=high), figure, row, (paper or {}).get(metric)
                )

    @cached_property
    def tables(self) -> Path:
        """The folder that tables go to."""
        return Path(os.environ.get("DM_TABLES", "tables"))

    @property
    def in_book(self) -> bool:
        """Whether this run is for the built book, whose links lead to pages and not to notebooks."""
        return "DM_BOOK" in os.environ

    def results(self) -> pd.DataFrame:
        """Return every recorded result, one row each, in the columns that the book's CSV files share."""
        import pandas as pd

        table = pd.DataFrame(self.rows, columns=COLUMNS).assign(**self.revisions())
        unsaid = table["sae_id"].notna() & table["sae_revision"].isna()
        table.loc[unsaid, "sae_revision"] = [self._commit(name) for name in table.loc[unsaid, "sae_id"]]
        return table

    def _commit(self, sae_id: str) -> str:
        """The revision of one of the profile's SAEs; empty for another."""
        return self._saes[sae_id].commit if sae_id in self._saes else ""

    @cached_property
    def _saes(self) -> dict[str, SaeRef]:
        from dm_utils.world.saes import catalog

        return {ref.id: ref for component in self.profile.releases for ref in catalog(self.profile, component)}

    def revisions(self) -> dict[str, str]:
        """The commits of the model and the text on the hub, as they were read; empty for what is on this machine."""
        if self.profile.model == "lab" and self.profile.dataset == "stdlib-docs":
            return {"model_revision": "", "dataset_revision": ""}
        from dm_utils.world import corpus, models

        return {
            "model_revision": models.revision(self.profile),
            "dataset_revision": corpus.revision(self.profile),
        }

    def _provenance(self, results: pd.DataFrame) -> str:
        """What was read, at which commits, and which SAEs were chosen, as HTML."""
        p, found = self.profile, self.revisions()
        model, text = (
            f"{name} at commit {sha[:12]}" if sha else name
            for name, sha in ((p.model, found["model_revision"]), (p.dataset, found["dataset_revision"]))
        )
        chosen: dict[str, str] = dict(
            results[["sae_id", "sae_revision"]].dropna(subset="sae_id").astype(str).itertuples(index=False)
        )
        ids = [f"{name} ({sha[:12]})" if sha else name for name, sha in chosen.items()]
        count = f"{len(ids)} SAE{'s' * (len(ids) > 1)}"
        saes = f"<details><summary>{count}</summary>{as_html(', '.join(ids))}</details>" if ids else ""
        return f'<div class="dm-provenance"><p>Model: {as_html(model)}. Text: {as_html(text)}.</p>{saes}</div>'

    def compare(self) -> None:
        """Show the table "paper vs this run": each reported value, where it stands, this run's value and interval."""
        from IPython.display import HTML, display

        rows = self.results().dropna(subset="paper_value")
        if rows.empty:
            raise ValueError(f"{self.name} has nothing to compare: record results with paper_value=…")
        display(HTML(table_html(comparison(rows), f"The paper and this run ({self.profile.title})")))

    def download(self) -> None:
        """Write the recorded results to ``tables/<chapter>.csv`` in one step and show the link."""
        import pandas as pd
        from IPython.display import HTML, display

        results = self.results()
        if results.empty:
            raise ValueError(f"{self.name} has no results to write: call record() or record_table() first")
        results["paper_value"] = [reported(value).text if pd.notna(value) else "" for value in results["paper_value"]]
        self.tables.mkdir(parents=True, exist_ok=True)
        target = self.tables / f"{self.name}.csv"
        fresh = target.with_suffix(f".{os.getpid()}.tmp")
        results.to_csv(fresh, index=False)
        os.replace(fresh, target)
        link = f"../tables/{target.name}" if self.in_book else target.as_posix()
        display(
            HTML(
                f'<p class="dm-download"><a href="{html.escape(link)}" download>Download these results</a> (CSV)</p>'
                + self._provenance(results)
            )
        )
