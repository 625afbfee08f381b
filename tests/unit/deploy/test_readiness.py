"""A run waits for participants that are back in a moment, and names those that are not."""

import threading
import time

import pytest

from flaremesh.deploy.runs import run
from flaremesh.deploy.runs.run import NotSubmitted, _await_registered, _ready_participants
from flaremesh.deploy.targets.base import DeployError, Participant


class Mesh:
    """A target whose site becomes ready when it has been asked for some times."""

    def __init__(self, asked, running=True):
        self.asked, self._running = asked, running

    def participants(self):
        self.asked -= 1
        is_ready = self.asked <= 0
        return [Participant("bonn", running=self._running, ready=is_ready, place="", metrics=None)]


def test_a_site_that_has_just_lost_the_server_is_waited_for():
    (bonn,) = _ready_participants(Mesh(asked=3), threading.Event())
    assert bonn.ready


def test_who_does_not_run_is_named_at_once():
    started = time.monotonic()
    with pytest.raises(DeployError, match=r"not ready: bonn\."):
        _ready_participants(Mesh(asked=10**6, running=False), threading.Event())
    assert time.monotonic() - started < 5


def test_who_wants_to_stop_waits_no_longer():
    stop, started = threading.Event(), time.monotonic()
    stop.set()
    with pytest.raises(NotSubmitted):
        _ready_participants(Mesh(asked=10**6), stop)
    assert time.monotonic() - started < 5


class Server:
    """The server knows aachen, and knows bonn when it has been asked for some times."""

    def __init__(self, asked):
        self.asked = asked

    def sites(self):
        self.asked -= 1
        return {"aachen"} if self.asked > 0 else {"aachen", "bonn"}


def await_both(server, ready=("aachen", "bonn"), stop=None):
    _await_registered(server, ["aachen", "bonn"], ready, stop or threading.Event())


def test_a_site_that_the_server_has_given_up_is_waited_for_until_it_has_registered_again():
    server = Server(asked=3)
    await_both(server)
    assert server.asked == 0


def test_a_site_that_the_server_does_not_know_and_that_is_not_ready_is_named_at_once():
    server = Server(asked=10**6)
    with pytest.raises(DeployError, match=r"not ready: bonn\."):
        await_both(server, ready=["aachen"])
    assert server.asked == 10**6 - 1


def test_a_site_that_runs_and_never_registers_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(run, "_REGISTERED_SECONDS", 0.5)
    with pytest.raises(DeployError, match=r"not registered: bonn\..*flaremesh doctor"):
        await_both(Server(asked=10**6))


def test_who_wants_to_stop_does_not_wait_for_a_site_to_register():
    stop, server = threading.Event(), Server(asked=10**6)
    stop.set()
    await_both(server, stop=stop)
    assert server.asked == 10**6
