"""The dashboards that the chart ships, as Grafana reads them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flaremesh.metrics.names import PREFIX, AgentMetric, Metric, RunMetric
from flaremesh.provision.releases import DASHBOARDS, RULES
from tools.dashboards.__main__ import files

DATASOURCE = {"type": "prometheus", "uid": "$datasource"}
FOREIGN = {"up", "ALERTS"}


_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}")
_NAME = re.compile(rf"\b(?:\w+:)?{PREFIX}\w+(?::\w+)?\b|\bALERTS\b|\bup\b")

Board = dict[str, Any]


def panels(board: Board) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: Board) -> list[str]:
    """Every PromQL of a dashboard, its annotations' too."""
    targets = [target["expr"] for panel in panels(board) for target in panel["targets"]]
    return targets + [annotation["expr"] for annotation in board["annotations"]["list"]]


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """Names of metrics with their matchers."""
    return ((match[1], match[2]) for match in _SELECTOR.finditer(expression))


def contract() -> dict[str, Metric]:
    """What an exporter shows, by the name in a query."""
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {
        metric.full_name + part: metric
        for metric in (member.value for group in (RunMetric, AgentMetric) for member in group)
        for part in parts.get(metric.kind, ("",))
    }


def recorded() -> set[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


@pytest.fixture(params=sorted(files()), ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def board(file: Path) -> Board:
    return dict(json.loads(file.read_text()))


def test_the_checked_in_file_is_what_the_code_makes(file):
    assert file.read_text() == files()[file], "run `make dashboards`"


def test_no_other_file_lies_beside_the_dashboards():
    assert set(DASHBOARDS.iterdir()) == set(files())


def test_each_dashboard_has_an_address_of_its_own():
    addresses = [json.loads(path.read_text())["uid"] for path in files()]
    assert sorted(addresses) == sorted(f"flaremesh-{path.stem}" for path in files())


def test_the_dashboards_find_each_other_by_a_tag(board):
    (link,) = board["links"]
    assert link["asDropdown"]
    assert link["keepTime"]
    assert link["includeVars"]
    assert set(link["tags"]) <= set(board["tags"])


def test_a_dashboard_cannot_be_edited_in_place(board):
    assert board["editable"] is False


def test_a_reader_narrows_down_from_data_source_to_site(board):
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names == ["datasource", "mesh", "run", "site"][: len(names)]
    assert len(names) in (2, 4)


def test_variables_follow_the_time_range(board):
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["refresh"] == 2
            assert variable["datasource"] == DATASOURCE


def test_everything_asks_the_chosen_data_source(board):
    for panel in panels(board):
        assert panel["datasource"] == DATASOURCE
        assert [target["datasource"] for target in panel["targets"]] == [DATASOURCE] * len(panel["targets"])
    assert all(annotation["datasource"] == DATASOURCE for annotation in board["annotations"]["list"])


def test_a_panel_says_what_it_shows_and_in_which_unit(board):
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


def test_titles_of_panels_differ(board):
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)


def test_panels_do_not_overlap(board):
    cells = [
        (x, y)
        for panel in board["panels"]
        for place in [panel["gridPos"]]
        for x in range(place.get("x", 0), place.get("x", 0) + place["w"])
        for y in range(place.get("y", 0), place.get("y", 0) + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_each_selector_names_the_mesh(board):
    for expression in queries(board):
        found = list(selectors(expression))
        assert found
        for name, matchers in found:
            assert 'mesh="$mesh"' in matchers, name
        assert {name for name, _ in found} >= set(_NAME.findall(expression)), "a name without matchers"


def test_each_name_is_exported_or_recorded(board):
    known = contract().keys() | recorded() | FOREIGN
    for expression in queries(board):
        assert {name for name, _ in selectors(expression)} <= known


def test_matchers_use_labels_that_the_metric_has(board):
    shared = {"mesh", "site"}
    for name, matchers in (found for expression in queries(board) for found in selectors(expression)):
        if metric := contract().get(name):
            own = (
                {"slot", *metric.labels}
                if metric in [member.value for member in RunMetric]
                else metric.labels
            )
            labels = {matcher.split("=")[0].strip() for matcher in matchers.split(", ")}
            assert labels <= shared | set(own), name


def test_windows_follow_the_scrapes(board):
    windows = {window for expression in queries(board) for window in re.findall(r"\[([^\]]*)\]", expression)}
    assert windows <= {"$__rate_interval"}


def test_counters_over_time_are_rates(board):
    counters = {name for name, metric in contract().items() if metric.kind != "gauge"}
    # their series begin above zero, of which a rate sees nothing
    for metric in (RunMetric.EXCHANGE_FAILURES, RunMetric.CARRIER_CHANGES, AgentMetric.MEETING_REFUSALS):
        counters.remove(metric.value.full_name)
    for panel in panels(board):
        for target in panel["targets"]:
            bare = re.sub(r"rate\([^)]*\)", "", target["expr"])
            if target["range"]:
                assert not {name for name, _ in selectors(bare)} & counters, panel["title"]
