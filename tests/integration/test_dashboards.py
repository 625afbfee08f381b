"""A real run serves what the contract of the metrics says, and every query of every dashboard finds data."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pytest
from prometheus import program, scraping
from prometheus_client.parser import text_string_to_metric_families
from running_mesh import RunningMesh, running_mesh, wait_until

from flaremesh.deploy.runs.run import run
from flaremesh.metrics.names import OF_SITES, OF_THE_SERVER, AgentMetric, RunMetric
from flaremesh.provision.releases import RULES
from flaremesh.topology.schema import Run
from grafana import Grafana, Panel, boards
from promql import Prometheus
from tools.metrics_page import LABEL_VALUES, most_series

pytestmark = pytest.mark.timeout(400)

LEARNING = {
    "algorithm": "gradient-tracking",
    "iterations": 10**6,
    "stepsize": 0.02,
    "evaluate_every": 20,
    "on_loss": "wait",
    "checkpoint": {"every": 500},
    "problem": {"path": "flaremesh.problems.digits.Digits", "args": {"hidden": 16}},
}
CONTRACTION = "mesh:flaremesh_contraction:ratio1m"
RUN_SECONDS = 240.0

EMPTY = {
    ("overview", "Alerts"): "no alert is pending or fires while all is well",
    ("run", "Privacy budget"): "a run with a budget has no checkpoints; tests/e2e/monitoring looks at one",
    ("run", "ε"): "as above",
}
"""Panels that have nothing to show in a healthy run, and why."""

PANELS = [
    pytest.param(name, panel, id=f"{name}: {panel.title}")
    for name, board in boards().items()
    for panel in board.panels
    if panel.queries
]


@dataclass(frozen=True)
class Watched:
    """A mesh in the middle of a run, and the Prometheus that watches it."""

    mesh: RunningMesh
    prometheus: Prometheus
    run_id: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with running_mesh(tmp_path_factory.mktemp("mesh"), meets=True) as mesh:
        participants = mesh.target.participants()
        targets = {participant.name: urlsplit(participant.metrics).netloc for participant in participants}
        with scraping(targets, folder, mesh.topology.name, RULES) as scraper:
            prometheus = Prometheus(scraper.url)
            ids: set[str] = set()
            stop = threading.Event()
            topology = mesh.topology.model_copy(update={"run": Run.model_validate(LEARNING)})
            running = threading.Thread(
                target=run,
                args=(topology, mesh.target, mesh.folder, "watched"),
                kwargs={"show": lambda run_id, progress: ids.add(run_id), "stop": stop},
            )
            running.start()
            try:
                # a contraction is told once the run is a minute old, the last of all figures
                wait_until(lambda: prometheus.query(CONTRACTION) or not running.is_alive(), RUN_SECONDS)
                assert running.is_alive(), "the run ended early"
                yield Watched(mesh, prometheus, ids.pop())
            finally:
                stop.set()
                running.join(60)


@pytest.fixture(scope="module")
def grafana(watched: Watched) -> Grafana:
    return Grafana(watched.prometheus, 60.0)


OF_OTHER_RUNS = {RunMetric.EPSILON_SPENT, RunMetric.EPSILON_BUDGET, RunMetric.SCRIPT_RANKS}
"""Metrics of runs that have a privacy budget, or a script."""

OF_PARTICIPANTS = {
    "server": [metric for metric in AgentMetric if metric not in OF_SITES],
    "bonn": [
        *(metric for metric in RunMetric if metric not in OF_OTHER_RUNS),
        *(metric for metric in AgentMetric if metric not in OF_THE_SERVER),
    ],
}


@pytest.mark.parametrize("participant", OF_PARTICIPANTS)
def test_a_participant_serves_what_the_contract_says_and_nothing_else(watched, participant):
    status, text = watched.mesh.get(participant, "/metrics")
    assert status == 200
    served = {family.name: family for family in text_string_to_metric_families(text)}
    declared = {m.value.full_name.removesuffix("_total"): m.value for m in OF_PARTICIPANTS[participant]}
    assert served.keys() == declared.keys()
    for name, metric in declared.items():
        assert served[name].type == metric.kind
        assert served[name].documentation == metric.help
        slot = {"slot"} if metric in {run_metric.value for run_metric in RunMetric} else set()
        for sample in served[name].samples:
            assert sample.labels.keys() - {"le"} == {*metric.labels, *slot}
            for label in LABEL_VALUES.keys() & sample.labels.keys() if slot else ():
                assert sample.labels[label] in LABEL_VALUES[label]


def test_a_site_has_no_more_series_than_the_contract_says(watched):
    _, text = watched.mesh.get("bonn", "/metrics")
    samples = sum(len(family.samples) for family in text_string_to_metric_families(text))
    assert samples <= most_series(slots=1, neighbors=2)


@pytest.mark.parametrize("name", boards())
def test_every_variable_offers_what_there_is(watched, grafana, name):
    board = boards()[name]
    chosen = grafana.choices(board)
    sites = [site.name for site in watched.mesh.topology.sites]
    expected = {
        "mesh": [watched.mesh.topology.name],
        "run": [watched.run_id],
        "site": sorted([*sites, "server"] if name == "site" else sites),
    }
    for variable in board.variables:
        assert grafana.options(variable, chosen) == expected[variable.name]


@pytest.mark.parametrize(("name", "panel"), PANELS)
def test_every_query_of_every_panel_finds_data(grafana, name, panel: Panel):
    chosen = grafana.choices(boards()[name])
    for query in panel.queries:
        found = grafana.ask(query, chosen)
        if (name, panel.title) in EMPTY:
            assert (len(found.samples), len(found.curves)) == (0, 0)
            continue
        values = [sample.value for sample in found.samples] + [
            value for curve in found.curves for value in curve.values
        ]
        assert np.isfinite(values).any(), query.expr


@pytest.mark.parametrize("name", boards())
def test_every_annotation_finds_the_run(watched, grafana, name):
    board = boards()[name]
    for annotation in board.annotations.queries:
        (curve,) = grafana.curves(annotation.expr, grafana.choices(board))
        assert curve.labels == {"run_id": watched.run_id}


def test_panels_that_must_be_empty_exist():
    assert EMPTY.keys() <= {(param.values[0], param.values[1].title) for param in PANELS}
