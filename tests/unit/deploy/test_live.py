"""Dashboards drawn from made-up answers; those of a real Prometheus are tested in integration/."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from flaremesh.cli.main import app
from flaremesh.deploy.reports.boards import Board, Panel, boards
from flaremesh.deploy.reports.live import Reading, Window
from flaremesh.deploy.reports.panels import draw
from flaremesh.deploy.reports.plots import DARK, LIGHT
from flaremesh.deploy.reports.prometheus import Sample, Series

WINDOW = Window(1_700_000_000.0, 1_700_000_900.0, 5.0)
MANY = [f"site-{number:02}" for number in range(64)]
Answer = Callable[[Panel], Reading]


def drawn(name: str, answer: Answer, theme=LIGHT, window: Window = WINDOW) -> Figure:
    board = boards()[name]
    with theme.applied():
        return draw(
            board, [[answer(panel)] if panel.targets else [] for panel in board.panels], window, theme
        )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def nothing(panel: Panel) -> Reading:
    return Reading(panel.targets[0])


def of_sites(sites: Sequence[str], value: float = 0.5) -> Answer:
    """Every query finds something of every site, or of every edge of the ring of sites."""

    def answer(panel: Panel) -> Reading:
        labels = [
            {
                "site": site,
                "peer": sites[(place + 1) % len(sites)],
                "slot": "0",
                "phase": "wait",
                "state": "running",
            }
            for place, site in enumerate(sites)
        ]
        if panel.targets[0].instant:
            return Reading(panel.targets[0], samples=[Sample(each, value) for each in labels])
        times = np.arange(WINDOW.start, WINDOW.end, WINDOW.step)
        values = np.full(len(times), value)
        return Reading(panel.targets[0], curves=[Series(each, times, values) for each in labels])

    return answer


def panels(board: Board) -> list[Panel]:
    return [panel for panel in board.panels if panel.targets]


@pytest.mark.parametrize("name", boards())
def test_a_panel_without_data_says_so(name):
    said = texts(drawn(name, nothing))
    tables = sum(panel.type == "table" and "noValue" in panel.defaults for panel in panels(boards()[name]))
    assert said.count("no data") == len(panels(boards()[name])) - tables
    assert said.count("none") == tables


@pytest.mark.parametrize("name", boards())
def test_every_panel_is_named_and_explained(name):
    said = " ".join(texts(drawn(name, of_sites(["bonn", "aachen", "ulm"]))))
    for panel in panels(boards()[name]):
        assert panel.title in said
        assert panel.description in said


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", boards())
def test_many_sites_fit(name, theme):
    figure = drawn(name, of_sites(MANY), theme)
    for legend in figure.legends:
        assert len(legend.get_texts()) < len(MANY)
    assert any(re.fullmatch(r"and \d+ more", text) for text in texts(figure))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-300])
def test_any_value_can_be_drawn(value, tmp_path):
    for name in ("run", "edges"):  # all kinds of panels
        drawn(name, of_sites(["bonn", "aachen"], value)).savefig(tmp_path / "any.png", dpi=30)


@pytest.mark.parametrize("seconds", [15, 60, 119, 120, 900, 3599, 21600, 86400, 200_000, 40 * 86400])
def test_every_time_axis_has_two_ticks_or_more_and_room_for_them(seconds):
    window = Window(WINDOW.start, WINDOW.start + seconds, seconds / 100)
    figure = drawn("run", of_sites(MANY[:2]), window=window)
    low, high = window.start / 86400, window.end / 86400
    curves = [axes for axes in figure.axes if axes.get_xlim() == (low, high)]
    assert curves
    for axes in curves:
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        inches = axes.get_position().width * figure.get_figwidth()
        assert 2 <= len(shown) <= inches + 2


def test_a_matrix_shows_the_row_waiting_for_the_column():
    figure = drawn("edges", of_sites(["bonn", "aachen", "ulm"], 0.0042))
    matrix = figure.axes[0]
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["aachen", "bonn", "ulm"]
    cells = {text.get_position(): text.get_text() for text in matrix.texts}
    # aachen waits for ulm, bonn for aachen, ulm for bonn
    assert cells == dict.fromkeys([(2.5, 0.5), (0.5, 1.5), (1.5, 2.5)], "4.2 ms")


def test_a_number_that_stands_for_something_is_shown_as_that():
    assert texts(drawn("overview", of_sites(["bonn"], 0.0))).count("down") == 1
    link = drawn("edges", of_sites(["bonn", "ulm"], 2.0)).axes[3]
    assert {text.get_text() for text in link.texts} == {"relay, direct wanted"}


def test_rates_are_taken_over_four_scrapes_at_least():
    assert Window(0, 60, 15).rate == 60
    assert Window(0, 24 * 3600, 15).rate == 24 * 3600 / 240 + 15


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report"], "either the folder of a run or --live"),
        (["report", "build/ring/runs/1", "--live"], "either the folder of a run or --live"),
        (["report", "--live", "--last", "0m"], "--last 0m is no duration"),
        (["report", "--live", "--last", "soon"], "--last soon is no duration"),
    ],
)
def test_the_command_says_what_it_cannot_make_sense_of(arguments, said):
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 2
    assert said in re.sub(r"[│\s]+", " ", ended.output)
