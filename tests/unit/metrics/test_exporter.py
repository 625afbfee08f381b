"""The HTTP side of a participant: metrics, health, readiness, report."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from flaremesh.metrics.exporter import Exporter


class Counting(Collector):
    def __init__(self) -> None:
        self.scrapes = 0

    def collect(self) -> Iterable[Family]:
        self.scrapes += 1
        yield GaugeMetricFamily("flaremesh_scrapes", "Scrapes so far.", self.scrapes)


@pytest.fixture
def missing() -> list[str]:
    return []


@pytest.fixture
def exporter(missing) -> Iterator[Exporter]:
    exporter = Exporter(
        "127.0.0.1", 0, [Counting()], lambda: missing, lambda: (not missing, b'{"edges": []}\n')
    )
    yield exporter
    exporter.close()


def get(exporter: Exporter, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_every_scrape_collects_anew(exporter):
    assert [get(exporter, "/metrics")[1].splitlines()[-1] for _ in range(2)] == [
        "flaremesh_scrapes 1.0",
        "flaremesh_scrapes 2.0",
    ]


def test_a_live_process_is_healthy_even_when_it_is_not_ready(exporter, missing):
    missing.append("not registered with the server")
    assert get(exporter, "/healthz")[0] == 200


def test_readiness_names_what_is_missing(exporter, missing):
    missing.append("not registered with the server")
    status, body = get(exporter, "/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False, "missing": ["not registered with the server"]}


def test_readiness_returns_when_nothing_is_missing(exporter, missing):
    missing.append("no connection to the server")
    assert get(exporter, "/readyz")[0] == 503
    missing.clear()
    assert get(exporter, "/readyz?verbose") == (200, '{"ready": true, "missing": []}\n')


def test_a_report_of_trouble_fails_unless_the_report_itself_is_asked_for(exporter, missing):
    assert get(exporter, "/doctor") == (200, '{"edges": []}\n')
    missing.append("starting")
    assert get(exporter, "/doctor") == (503, '{"edges": []}\n')
    assert get(exporter, "/doctor?report") == (200, '{"edges": []}\n')


def test_other_paths_do_not_exist(exporter):
    assert get(exporter, "/")[0] == 404


def test_a_silent_connection_does_not_hold_up_a_scrape(exporter):
    with socket.create_connection(("127.0.0.1", exporter.port)):
        assert get(exporter, "/metrics")[0] == 200


def test_a_port_in_use_is_an_error(exporter):
    with pytest.raises(OSError, match="in use"):
        Exporter("127.0.0.1", exporter.port, [], list, lambda: (True, b""))
