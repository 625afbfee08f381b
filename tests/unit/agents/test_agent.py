import json
import logging
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace

from flaremesh.metrics.ask import PORT_VARIABLE
from flaremesh.p2p.agents.agent import AGENT_FILE, Agent


class IdleAgent(Agent):
    stop_seconds = 1.0

    def missing(self):
        return []

    def running_jobs(self):
        return []


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def bootstrap(agent: Agent, workspace: Path) -> None:
    for part in ("startup", "local"):
        (workspace / part).mkdir()
    fl_ctx = FLContext()
    fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, Workspace(str(workspace)), private=True)
    agent.handle_event(EventType.SYSTEM_BOOTSTRAP, fl_ctx)


def test_the_workspace_says_where_the_agent_serves(tmp_path, monkeypatch):
    monkeypatch.delenv(PORT_VARIABLE, raising=False)
    bootstrap(IdleAgent(host="127.0.0.1", port=0), tmp_path)
    url = json.loads((tmp_path / AGENT_FILE).read_text())["url"]
    with urllib.request.urlopen(f"{url}/readyz", timeout=5) as reply:
        assert json.load(reply) == {"ready": True, "missing": []}


def test_the_environment_overrides_the_port(tmp_path, monkeypatch, taken_port):
    monkeypatch.setenv(PORT_VARIABLE, "0")
    bootstrap(IdleAgent(host="127.0.0.1", port=taken_port), tmp_path)
    assert (tmp_path / AGENT_FILE).exists()


@pytest.mark.parametrize("port", ["taken", "http", "99999"])
def test_a_port_that_cannot_be_bound_is_reported_and_the_process_goes_on(
    tmp_path, monkeypatch, taken_port, caplog, port
):
    (tmp_path / AGENT_FILE).write_text("{}")
    monkeypatch.setenv(PORT_VARIABLE, str(taken_port) if port == "taken" else port)
    with caplog.at_level(logging.ERROR):
        bootstrap(IdleAgent(host="127.0.0.1"), tmp_path)
    assert PORT_VARIABLE in caplog.text
    assert not (tmp_path / AGENT_FILE).exists()
