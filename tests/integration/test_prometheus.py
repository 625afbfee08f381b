"""A real Prometheus scrapes the sites of a mesh before, during and after a run."""

import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from prometheus import Prometheus, program, scraping
from running_mesh import RunningMesh, running_mesh

from flaremesh.p2p.outcome import RunResult

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    program("prometheus")
    with running_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def prometheus(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    participants = mesh.target.participants()
    targets = {participant.name: urlsplit(participant.metrics).netloc for participant in participants}
    with scraping(targets, tmp_path_factory.mktemp("prometheus")) as prometheus:
        yield prometheus


@pytest.fixture(scope="module")
def result(mesh: RunningMesh, prometheus: Prometheus) -> RunResult:
    """A run that has ended and been scraped since."""
    result = mesh.run("scraped")
    prometheus.scrape_again({"server", *result.sites})
    return result


def test_every_participant_is_scraped_without_a_gap(prometheus, result):
    assert prometheus.query("min_over_time(up[10m])") == dict.fromkeys(["server", *result.sites], 1.0)


def test_the_server_counts_its_sites(prometheus, result):
    assert prometheus.query("flaremesh_registered_sites") == {"server": len(result.sites)}


def test_a_finished_run_can_be_told_by_its_id(prometheus, result):
    finished = 'flaremesh_run_state{state="finished"}'
    expression = f'{finished} * on(site, slot) flaremesh_run_info{{run_id="{result.run_id}"}}'
    assert prometheus.query(expression) == dict.fromkeys(result.sites, 1.0)


def test_iterations_are_those_of_the_result(prometheus, result):
    iterations = {name: site.iterations for name, site in result.sites.items()}
    for metric in (
        "iterations_total",
        "current_iteration",
        "max_iterations",
        "iteration_duration_seconds_count",
    ):
        assert prometheus.query(f"flaremesh_{metric}") == iterations


def test_received_bytes_are_those_of_the_result(prometheus, result):
    received = {name: sum(site.received_bytes.values()) for name, site in result.sites.items()}
    assert prometheus.query("sum by (site) (flaremesh_received_bytes_total)") == received


def test_the_sites_agree_at_the_end(prometheus, result):
    assert all(distance < 1e-6 for distance in prometheus.query("flaremesh_consensus_distance").values())


def test_a_sites_neighbours_weigh_what_it_leaves_to_them(prometheus, result):
    rows = dict(zip(result.graph.sites, result.graph.matrices[0], strict=True))
    weights = prometheus.query("sum by (site) (flaremesh_mixing_weight)")
    assert weights == pytest.approx(
        {site: 1 - row[result.graph.sites.index(site)] for site, row in rows.items()}
    )


@pytest.mark.parametrize("participant", ["server", "bonn"])
def test_promtool_finds_nothing_to_improve(mesh, result, participant):
    status, text = mesh.get(participant, "/metrics")
    assert status == 200
    check = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")
