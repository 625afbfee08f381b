"""Whom the controller blames before the first iteration, and what sites tell it meanwhile."""

import json
import threading
import time

import pytest
from nvflare.apis.signal import Signal

from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.controllers.dist_opt_controller import SiteFailure
from flaremesh.p2p.extra import ExtraError
from flaremesh.p2p.progress import ProgressReporter
from flaremesh.p2p.tasks import ADDRESS, BY_VALUE
from flaremesh.p2p.types import Config, Neighbor, Network, Node

RING = Network(
    [
        Node("bonn", [Neighbor("ulm", 0.1)]),
        Node("ulm", [Neighbor("worms", 0.1)]),
        Node("worms", [Neighbor("bonn", 0.1)]),
    ]
)


@pytest.fixture
def controller():
    return DistOptController(Config(RING, {"iterations": 3}))


@pytest.mark.parametrize(
    ("waiting", "blamed"),
    [
        ({}, "bonn, worms"),
        ({"worms": "bonn"}, "bonn"),
        ({"bonn": "ulm"}, "bonn, worms"),  # ulm is prepared
        ({"bonn": "worms", "worms": "bonn"}, "bonn, worms"),
    ],
)
def test_a_late_site_is_named_and_not_those_that_wait_for_it(controller, waiting, blamed):
    for site, other in waiting.items():
        controller._hear(site, json.dumps({"waits_for": other}).encode())
    with pytest.raises(SiteFailure, match=f"^{blamed}: not prepared$"):
        controller._await_sites({"ulm"}, time.monotonic(), "not prepared", Signal())


def test_an_aborted_start_is_no_failure(controller):
    signal = Signal()
    signal.trigger(True)
    assert not controller._await_sites(set(), time.monotonic() + 60, "not prepared", signal)
    assert controller._failure is None


def test_code_of_one_site_that_sees_values_is_told_to_all(controller):
    for site, by_value in (("bonn", False), ("ulm", True), ("worms", False)):
        controller._take_step(site, {ADDRESS: None, BY_VALUE: by_value})
    assert controller._by_value
    assert controller._linked == controller._prepared == set()


def test_an_executor_that_knows_one_config_task_gets_no_further_ones(controller):
    controller._take_step("bonn", {})
    assert controller._linked == controller._prepared == {"bonn"}


def test_a_panic_of_a_sites_code_ends_the_run_with_its_words(controller):
    controller._hear("ulm", json.dumps({"iteration": 2, "panic": "the data are gone"}).encode())
    controller._hear("ulm", json.dumps({"iteration": 2, "panic": "the data are gone"}).encode())
    assert controller._failure == "ulm: the data are gone"
    assert len(controller._failures) == 1


def test_a_start_timeout_that_is_no_time_is_refused():
    controller = DistOptController(Config(RING, {"start_timeout": "soon"}))
    with pytest.raises(ExtraError, match=r'extra\["start_timeout"\] must be a number above 0, not \'soon\''):
        _ = controller._start_timeout


def test_an_aborted_site_says_so_even_while_its_code_goes_on():
    heard, told = threading.Event(), []

    def post(data):
        told.append(json.loads(data))
        if told[-1].get("stopped"):
            heard.set()

    reporter = ProgressReporter(post, {}, lambda: True)
    assert heard.wait(5)
    reporter.stop()
