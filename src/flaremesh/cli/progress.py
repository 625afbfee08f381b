"""How the progress of a run is shown."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table

from flaremesh.cli.outputs import terminal
from flaremesh.p2p.outcome import RunResult
from flaremesh.p2p.progress import RunProgress, SiteProgress
from flaremesh.topology.links import carried_in_words

_LINE_SECONDS = 5.0


def progress_table(sites: Mapping[str, SiteProgress], title: str) -> Table:
    """One row per site with its latest figures, empty where it has sent none."""
    columns = (
        "site",
        "iteration",
        "loss",
        "accuracy",
        "consensus distance",
        "seconds per iteration",
        "links",
    )
    table = Table(*columns, title=title, title_justify="left")
    for name, site in sorted(sites.items()):
        table.add_row(
            name,
            str(site.iteration),
            _shown(site.metrics.get("loss"), ".4g"),
            _shown(site.metrics.get("accuracy"), ".3f"),
            _shown(site.consensus_distance, ".3e"),
            _shown(site.seconds_per_iteration, ".4f"),
            carried_in_words(Counter(site.links.values())),
        )
    return table


def _without(missing: Mapping[str, int]) -> str:
    """Who is missing since when, such as ", without bonn since iteration 50"."""
    return "".join(f", without {site} since iteration {since}" for site, since in sorted(missing.items()))


def _shown(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def result_table(result: RunResult) -> Table:
    """One row per site with what it reached."""
    metrics = list(dict.fromkeys(name for site in result.sites.values() for name in site.metrics))
    spent = any(site.epsilon is not None for site in result.sites.values())
    table = Table("site", "iterations", *metrics, *["ε"] * spent, "seconds", "MB sent", "links")
    for name, site in result.sites.items():
        values = (site.metrics.get(metric) for metric in metrics)
        table.add_row(
            name,
            str(site.iterations),
            *(_shown(value, ".4g") for value in values),
            *[_shown(site.epsilon, ".3g")] * spent,
            _shown(site.seconds, ".1f"),
            f"{sum(site.sent_bytes.values()) / 1e6:.2f}" if site.sent_bytes else "",
            carried_in_words(Counter(site.links.values())),
        )
    return table


class ProgressView:
    """A table that follows the run on a terminal, elsewhere a line now and then; on standard error.

    Args:
        iterations: how many the run will do.
    """

    def __init__(self, iterations: int):
        self._iterations = iterations
        self._attempts: list[str] = []
        self._console = terminal(stderr=True)
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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Show nothing while the block has the terminal."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def show(self, attempt: str, progress: RunProgress) -> None:
        """Show the latest; a run has the id of its first attempt."""
        if attempt not in self._attempts:
            self._attempts.append(attempt)
        run_id = self._attempts[0]
        state, sites = progress.state, progress.sites
        if self._live:
            self._live.update(progress_table(sites, f"run {run_id}: {state}{_without(progress.missing)}"))
        elif state != self._state or time.monotonic() > self._next_line:
            done = min((site.iteration for site in sites.values()), default=0)
            self._console.print(
                f"run {run_id}: {state}, iteration {done} of {self._iterations}{_without(progress.missing)}",
                soft_wrap=True,
            )
            self._state, self._next_line = state, time.monotonic() + _LINE_SECONDS
