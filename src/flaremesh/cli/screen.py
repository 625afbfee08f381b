"""A mesh as a page of the terminal."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flaremesh.deploy.watch.views import MeshView, RunView, ServerView, SiteView
from flaremesh.metrics.names import Phase, RunState
from flaremesh.topology.links import carried_in_words

_BAR = 10
_PROGRESS = 24
_NOTES = 6
_MOST_SCALED = 999.5e18
_SILENT, _IDLE = "no answer", "idle"
_STATES = {
    RunState.RUNNING: "green",
    RunState.CONFIGURING: "yellow",
    RunState.WAITING: "yellow",
    RunState.FINISHED: "blue",
    RunState.FAILED: "bold red",
    RunState.ABORTED: "magenta",
    _SILENT: "bold red",
    _IDLE: "bright_black",
}
_PHASES = {
    Phase.COMPUTE: "blue",
    Phase.SEND: "cyan",
    Phase.WAIT: "yellow",
    Phase.MIX: "green",
    Phase.EVALUATE: "magenta",
}


def screen(view: MeshView, command: Callable[[str], str], console: Console) -> RenderableType:
    """A mesh as a page for a terminal; what does not fit its width is left out, the least important first.

    Args:
        view: the mesh.
        command: the whole line to type for a command of this program.
        console: where it will be shown.
    """
    width, coloured = console.width, console.color_system is not None
    page: list[RenderableType] = [
        *_flow(
            [
                Text.assemble((view.mesh, "bold")),
                *_server(view.server, len(view.runs[0].sites)),
                Text(time.strftime("%H:%M:%S"), "bright_black"),
            ],
            width,
        )
    ]
    # before the sites, which may be more than the terminal has lines
    notes = _notes(view)
    page += [Text(note, "yellow") for note in notes[:_NOTES]]
    if len(notes) > _NOTES:
        page.append(Text(f"and {len(notes) - _NOTES} more", "yellow"))
    for run in view.runs:
        page += [Text(), *_heading(run, view, command, width), Text()]
        page.append(_table(run.sites, width, coloured))
    if any(site.shares for run in view.runs for site in run.sites):
        page += [Text(), *_flow(_legend(coloured), width)]
    return Group(*page)


# lines


def _server(server: ServerView, sites: int) -> Iterable[Text]:
    if not server.answers:
        yield Text("server does not answer", "bold red")
        return
    yield Text.assemble(("server ", "bright_black"), "ready" if server.ready else ("not ready", "yellow"))
    if server.registered_sites is not None:
        yield _figure(str(server.registered_sites), f"of {sites} sites")
    if server.running_jobs is not None:
        yield _figure(str(server.running_jobs), "job" if server.running_jobs == 1 else "jobs")
    if server.relay_bytes_per_second is not None:
        yield Text.assemble(("relays ", "bright_black"), _scaled(server.relay_bytes_per_second, " "), "B/s")


def _heading(run: RunView, view: MeshView, command: Callable[[str], str], width: int) -> Iterable[Text]:
    if not view.up:
        yield Text(f"Nothing of this mesh answers. Start it: {command('up')}", "yellow")
        return
    if not run.active and not view.missing:
        yield Text(f"Nothing runs. Start a run: {command('run')}", "yellow")
    if run.run_id is None or run.state is None:
        return
    progress = [
        Text.assemble(("run ", "bright_black"), run.run_id),
        Text(run.algorithm or "", "bold"),
        Text(run.state, _STATES[run.state]),
    ]
    yield from _flow(progress, width)
    if run.max_iterations and run.iteration is not None:
        share = min(1.0, run.iteration / run.max_iterations)
        done = min(_PROGRESS, int(share * _PROGRESS))
        figures = [
            Text.assemble(
                ("iteration ", "bright_black"),
                (str(run.iteration), "bold"),
                (f" of {run.max_iterations} ", "bright_black"),
                ("━" * done, "green"),
                ("─" * (_PROGRESS - done), "bright_black"),
                f" {share:.0%}",
            )
        ]
        if run.active and run.seconds_left is not None:
            figures.append(_figure(_duration(run.seconds_left), "left"))
        yield from _flow(figures, width)
    consensus = run.consensus
    if consensus.distance is None:
        return
    level = consensus.expected_level or None  # where the sites add nothing, round-off is what is left
    parts = [_compared("consensus", consensus.distance, ".1e", level, "< ")]
    if consensus.predicted_contraction is not None:
        measured, predicted = consensus.measured_contraction, consensus.predicted_contraction
        parts.append(_compared("contraction", measured, ".4f", predicted))
        parts.append(Text.assemble(("spectral gap ", "bright_black"), f"{1 - predicted:.4f}"))
    yield from _flow(parts, width)


def _compared(name: str, value: float | None, form: str, expected: float | None, bound: str = "") -> Text:
    """A figure and, beside it, what theory expects."""
    text = Text.assemble((f"{name} ", "bright_black"), ("–" if value is None else f"{value:{form}}", "bold"))
    if expected is not None:
        text.append(f", theory {bound}{expected:{form}}", "bright_black")
    return text


def _legend(coloured: bool) -> Iterable[Text]:
    for phase, colour in _PHASES.items():
        yield Text.assemble((_block(phase, coloured), colour), (f" {phase}", "bright_black"))
    yield Text("· other", "bright_black")


def _notes(view: MeshView) -> list[str]:
    """What a user may have to act on."""
    notes = [f"server: {view.server.problem}"] if view.server.problem else []
    for absent in view.missing:
        ago = _duration(max(0.0, time.time() - absent.since))
        notes.append(f"{absent.site} has been missing from run {absent.run_id} for {ago}")
    for site in {site.name: site for run in view.runs for site in run.sites}.values():
        if site.problem:
            notes.append(f"{site.name}: {site.problem}")
        if site.non_finite:
            notes.append(f"{site.name}: NaN or infinite values in {site.non_finite} iterations")
        for word in sorted(set(site.worse_links.values())):
            peers = ", ".join(peer for peer, way in site.worse_links.items() if way == word)
            notes.append(f"{site.name}: {word} to {peers}, for want of a better way")
    return notes


def _flow(parts: Iterable[Text], width: int) -> list[Text]:
    """As many parts on a line as fit."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 3 + part.cell_len <= width:
            lines[-1].append(" · ", "bright_black")
            lines[-1].append_text(part)
        else:
            lines.append(part.copy())
    return lines


# the table


@dataclass(frozen=True)
class _Column:
    """A column of the sites' table.

    Attributes:
        name: its heading.
        cell: what it shows of a site; a column that shows nothing of any site is left out.
        weight: a narrow terminal drops the columns with the smallest first.
        left: whether it is aligned left; numbers are aligned right.
    """

    name: str
    cell: Callable[[SiteView], Text | str]
    weight: int
    left: bool = False


def _columns(coloured: bool) -> Sequence[_Column]:
    return (
        _Column("site", lambda site: site.name, 13, left=True),
        _Column("state", _state, 12, left=True),
        _Column("iter", lambda site: _shown(site.iteration, str), 11),
        _Column("it/s", lambda site: _shown(site.iterations_per_second, _scaled), 9),
        _Column("loss", lambda site: _shown(site.loss, _significant), 8),
        _Column("acc", lambda site: _shown(site.accuracy, "{:.3f}".format), 5),
        _Column("distance", lambda site: _shown(site.consensus_distance, "{:.1e}".format), 10),
        _Column("nan", lambda site: _warned(site.non_finite or None), 14),
        _Column("time", lambda site: _bar(site.shares, coloured), 6, left=True),
        _Column("waits for", _wait, 7, left=True),
        _Column("links", _links, 4, left=True),
        _Column("in/out B/s", _traffic, 2),
    )


def _table(sites: Sequence[SiteView], width: int, coloured: bool) -> RenderableType:
    cells = {
        column: [cell if isinstance(cell := column.cell(site), Text) else Text(cell) for site in sites]
        for column in _columns(coloured)
    }
    needs = {
        column: max(len(column.name), *(cell.cell_len for cell in own))
        for column, own in cells.items()
        if any(own)
    }
    while sum(needs.values()) + len(needs) - 1 > width and len(needs) > 1:
        del needs[min(needs, key=lambda column: column.weight)]
    gap = 2 if sum(needs.values()) + 2 * (len(needs) - 1) <= width else 1
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bright_black")
    for column in needs:
        table.add_column(column.name, justify="left" if column.left else "right", no_wrap=True)
    for row in zip(*(cells[column] for column in needs), strict=True):
        table.add_row(*row)
    return table


def _state(site: SiteView) -> Text:
    state = _SILENT if not site.answers else site.state or _IDLE
    mark = ("● ", "green") if site.ready else ("○ ", "yellow" if site.answers else "bold red")
    return Text.assemble(mark, (state, _STATES[state]))


def _wait(site: SiteView) -> Text | str:
    if site.waits_for is None or site.waits_for_share is None:
        return ""
    return f"{site.waits_for} {site.waits_for_share:.0%}"


def _links(site: SiteView) -> Text:
    return Text(carried_in_words(site.links), "yellow" if site.worse_links else "")


def _traffic(site: SiteView) -> str:
    if site.received_bytes_per_second is None or site.sent_bytes_per_second is None:
        return ""
    return f"{_scaled(site.received_bytes_per_second)}/{_scaled(site.sent_bytes_per_second)}"


def _bar(shares: Mapping[Any, float], coloured: bool) -> Text:
    """The phases' shares of a site's time."""
    bar, end = Text(), 0.0
    for phase, colour in _PHASES.items():
        end = min(1.0, end + shares.get(phase, 0.0))
        bar.append(_block(phase, coloured) * (round(end * _BAR) - len(bar)), colour)
    return bar.append("·" * (_BAR - len(bar)), "bright_black") if shares else bar


def _block(phase: str, coloured: bool) -> str:
    return "█" if coloured else phase[0]


def _warned(value: int | None) -> Text | str:
    return Text(str(value), "bold red") if value else ""


# figures


def _figure(value: str, name: str) -> Text:
    return Text.assemble(value, (f" {name}", "bright_black"))


def _shown(value: Any, form: Callable[[Any], str]) -> Text | str:
    if value is None:
        return ""
    return form(value) if math.isfinite(value) else Text(str(value), "bold red")


def _scaled(value: float, space: str = "") -> str:
    """Three digits and a decimal prefix."""
    if not value < _MOST_SCALED:
        return f"{value:.1e}"
    prefixes = iter("kMGTPE")
    prefix = ""
    while value >= 999.5:
        value, prefix = value / 1000, next(prefixes)
    digits = f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"
    return f"{digits}{space}{prefix}"


def _significant(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
