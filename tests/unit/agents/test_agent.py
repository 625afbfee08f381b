"""Where an agent serves, and what it says of its kit and certificate."""

import json
import logging
import shutil
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

from flaremesh.metrics.ask import HOST_VARIABLE, PORT_VARIABLE
from flaremesh.p2p.agents.agent import AGENT_FILE, Agent
from flaremesh.p2p.agents.kit import Kit


class IdleAgent(Agent):
    stop_seconds = 1.0

    def missing(self):
        return []

    def running_jobs(self):
        return []

    def collect(self):
        return []


@pytest.fixture(autouse=True)
def this_machine_only(monkeypatch) -> None:
    monkeypatch.setenv(HOST_VARIABLE, "127.0.0.1")


@pytest.fixture
def workspace(tmp_path, authority) -> Path:
    for part in ("startup", "local"):
        (tmp_path / part).mkdir()
    shutil.copy(authority.issue("bonn").certificate, tmp_path / "startup/client.crt")
    return tmp_path


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
    fl_ctx = FLContext()
    fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, Workspace(str(workspace)), private=True)
    agent.handle_event(EventType.SYSTEM_BOOTSTRAP, fl_ctx)


def asked(workspace: Path, path: str) -> bytes:
    url = json.loads((workspace / AGENT_FILE).read_text())["url"]
    with urllib.request.urlopen(url + path, timeout=5) as reply:
        return bytes(reply.read())


def test_the_workspace_says_where_the_agent_serves(workspace, monkeypatch):
    monkeypatch.delenv(PORT_VARIABLE, raising=False)
    bootstrap(IdleAgent(port=0), workspace)
    assert json.loads(asked(workspace, "/readyz")) == {"ready": True, "missing": []}


def test_the_environment_overrides_port_and_address(workspace, monkeypatch, taken_port):
    monkeypatch.setenv(PORT_VARIABLE, "0")
    monkeypatch.setenv(HOST_VARIABLE, "127.0.0.2")
    bootstrap(IdleAgent(port=taken_port), workspace)
    assert json.loads((workspace / AGENT_FILE).read_text())["url"].startswith("http://127.0.0.2:")


def test_the_certificate_that_counts_is_the_one_with_which_the_process_started(
    workspace, authority, monkeypatch
):
    monkeypatch.setenv(PORT_VARIABLE, "0")
    bootstrap(IdleAgent(), workspace)
    before = asked(workspace, "/metrics")
    assert b"flaremesh_certificate_expiry_timestamp_seconds 1" in before
    shutil.copy(authority.issue("bonn", days=300).certificate, workspace / "startup/client.crt")
    expiry = [line for line in before.splitlines() if line.startswith(b"flaremesh_certificate_expiry")]
    assert set(expiry) <= set(asked(workspace, "/metrics").splitlines())


@pytest.mark.parametrize("port", ["taken", "http", "99999"])
def test_a_port_that_cannot_be_bound_is_reported_and_the_process_goes_on(
    workspace, monkeypatch, taken_port, caplog, port
):
    (workspace / AGENT_FILE).write_text("{}")
    monkeypatch.setenv(PORT_VARIABLE, str(taken_port) if port == "taken" else port)
    with caplog.at_level(logging.ERROR):
        bootstrap(IdleAgent(), workspace)
    assert PORT_VARIABLE in caplog.text
    assert not (workspace / AGENT_FILE).exists()


def test_the_agent_tells_with_which_kit_it_was_started(workspace, monkeypatch):
    monkeypatch.setenv(PORT_VARIABLE, "0")
    kit = {"digest": "abc", "files": True, "packages": ["ours"]}
    bootstrap(IdleAgent(kit=kit), workspace)
    assert Kit.model_validate_json(asked(workspace, "/kit")) == Kit(**kit)
