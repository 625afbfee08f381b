"""How the progress of a run is shown."""

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from flaremesh.deploy.runs.results import RunResult

_LINE_SECONDS = 5.0

_COLUMNS = {
    "iteration": "d",
    "loss": ".4g",
    "accuracy": ".3f",
    "consensus_distance": ".3e",
    "seconds_per_iteration": ".4f",
}


def progress_table(sites: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """One row per site with its latest figures, empty where it told none."""
    table = Table(
        "site",
        *(column.replace("_", " ") for column in _COLUMNS),
        "links",
        title=title,
        title_justify="left",
    )
    for site in sorted(sites):
        figures = (
            format(sites[site][column], spec) if sites[site].get(column) is not None else ""
            for column, spec in _COLUMNS.items()
        )
        table.add_row(site, *figures, _links(sites[site].get("links", {})))
    return table


def _links(links: Mapping[str, str]) -> str:
    """Such as "2 direct, 1 relay"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(links.values()).items()))


def result_table(result: RunResult) -> Table:
    """One row per site with what it reached."""
    metrics = list(dict.fromkeys(name for site in result.sites.values() for name in site.metrics))
    table = Table("site", "iterations", *metrics, "seconds", "MB sent", "links")
    for name, site in result.sites.items():
        values = (site.metrics.get(metric) for metric in metrics)
        table.add_row(
            name,
            str(site.iterations),
            *("" if value is None else f"{value:.4g}" for value in values),
            "" if site.seconds is None else f"{site.seconds:.1f}",
            f"{sum(site.sent_bytes.values()) / 1e6:.2f}" if site.sent_bytes else "",
            _links(site.links),
        )
    return table


class ProgressView:
    """A table that follows the run on a terminal, elsewhere a line now and then; on standard error.

    Args:
        iterations: how many the run will do.
    """

    def __init__(self, iterations: int):
        self._iterations = iterations
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None
        self._state = ""
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, run_id: str, progress: Mapping[str, Any]) -> None:
        """Show the latest."""
        state, sites = progress["state"], progress["sites"]
        if self._live:
            self._live.update(progress_table(sites, f"run {run_id}: {state}"))
        elif state != self._state or time.monotonic() > self._next_line:
            done = min((site.get("iteration", 0) for site in sites.values()), default=0)
            self._console.print(
                f"run {run_id}: {state}, iteration {done} of {self._iterations}", soft_wrap=True
            )
            self._state, self._next_line = state, time.monotonic() + _LINE_SECONDS
