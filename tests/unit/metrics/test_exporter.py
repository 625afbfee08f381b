"""The HTTP side of a participant: metrics, health, readiness, report."""

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from flaremesh.metrics import exporter as exporter_module
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


def connections(exporter, count):
    return [socket.create_connection(("127.0.0.1", exporter.port), timeout=5) for _ in range(count)]


def test_one_address_has_a_few_connections_and_no_thread_for_more(exporter):
    held = connections(exporter, 16)
    refused = connections(exporter, 20)
    assert [client.recv(1) for client in refused] == [b""] * 20
    held.pop().close()
    while not is_served(exporter):  # the server notices an end when it reads it
        pass
    for client in (*held, *refused):
        client.close()


def is_served(exporter):
    (client,) = connections(exporter, 1)
    with client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return client.recv(1) == b"H"
    return False


def test_a_client_that_asks_byte_by_byte_is_parted_with(monkeypatch, exporter):
    monkeypatch.setattr(exporter_module, "_CLIENT_SECONDS", 0.5)
    (client,) = connections(exporter, 1)

    def dribble():
        while True:
            client.sendall(b"G")

    with client, pytest.raises(ConnectionError):
        dribble()


def test_documents_are_shown_on_this_machine_alone(monkeypatch):
    exporter = Exporter(
        "127.0.0.1", 0, [], list, lambda: (True, b""), {"/kit": lambda query: b"{}" + query.encode()}
    )
    assert get(exporter, "/kit?all") == (200, "{}all")
    monkeypatch.setattr(exporter_module, "_is_here", lambda connection: False)
    assert get(exporter, "/kit")[0] == 404
    exporter.close()


def test_no_stranger_learns_which_python_serves(exporter):
    with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/healthz", timeout=5) as reply:
        assert reply.headers["Server"].strip() == "flaremesh"


def test_a_port_in_use_is_an_error(exporter):
    with pytest.raises(OSError, match="in use"):
        Exporter("127.0.0.1", exporter.port, [], list, lambda: (True, b""))
