"""For how long the admin's side looks for a server that does not answer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from flaremesh.deploy.runs import connection
from flaremesh.deploy.runs.connection import Connection
from flaremesh.deploy.runs.session import ServerLost
from flaremesh.deploy.targets.base import DeployError, Participant
from flaremesh.topology.load import load
from flaremesh.topology.schema import Topology

RING = Path(__file__).parents[3] / "provision/ring3-consensus.yaml"


class Mesh:
    """A mesh, as target and session in one, whose server answers again after some attempts.

    Attributes:
        refusals: how many logins from now on find no server.
    """

    def __init__(self) -> None:
        self.refusals = 0

    def participants(self) -> list[Participant]:
        return [Participant("server", running=self.refusals <= 0, ready=True, place="", metrics=None)]

    def server(self) -> Any:
        return nullcontext(("localhost", 1))

    def sites(self) -> set[str]:
        return set()

    @contextmanager
    def connect(self, *arguments: object) -> Iterator["Mesh"]:
        self.refusals -= 1
        if self.refusals >= 0:
            raise ServerLost("no server answers")
        yield self


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Mesh:
    mesh = Mesh()
    monkeypatch.setattr(connection, "connect", mesh.connect)
    monkeypatch.setattr(connection, "_RETRY_SECONDS", 0.01)
    return mesh


def topology(**run: Any) -> Topology:
    ring = load(RING)
    return ring.model_copy(update={"run": ring.run.model_copy(update=run)})


def test_a_server_that_is_started_again_is_waited_for_by_a_run_that_outlives_it(mesh):
    with Connection(topology(on_loss="wait"), mesh, Path()) as way:
        mesh.refusals, told = 3, []
        assert way.renew("run-1", threading.Event(), told.append)
    assert told == ["no server answers. It is looked for, for 600 s."]


def test_a_server_that_has_ended_is_not_waited_for_by_a_run_that_ends_with_it(mesh):
    with Connection(topology(on_loss="fail"), mesh, Path()) as way:
        mesh.refusals = 3
        assert not way.renew("run-1", threading.Event())


def test_after_the_runs_patience_it_is_said_how_to_come_back(mesh):
    with Connection(topology(on_loss="wait", patience=0.05), mesh, Path()) as way:
        mesh.refusals = 10**6
        with pytest.raises(DeployError, match=r"run-1 was left alone: `flaremesh attach FILE run-1`"):
            way.renew("run-1", threading.Event())


def test_nobody_is_waited_for_once_the_command_is_to_stop(mesh):
    stop = threading.Event()
    with Connection(topology(on_loss="wait"), mesh, Path()) as way:
        mesh.refusals = 10**6
        stop.set()
        assert not way.renew("run-1", stop)


def test_a_question_is_asked_again_once_the_server_is_back(mesh):
    answers = iter([None, "answer"])

    def question(session: Any) -> str:
        if (answer := next(answers)) is None:
            raise ServerLost("no answer")
        return answer

    with Connection(topology(on_loss="wait"), mesh, Path()) as way:
        assert way.ask("run-1", question, threading.Event()) == "answer"
