"""A run waits for participants that are back in a moment, and names those that are not."""

import threading
import time

import pytest

from flaremesh.deploy.runs.run import NotSubmitted, _ready_participants
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
