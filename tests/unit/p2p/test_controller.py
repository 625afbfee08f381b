"""Whom the controller blames before the first iteration, and what sites tell it meanwhile."""

import json
import re
import threading
import time

import pytest
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from flaremesh.p2p import attempt
from flaremesh.p2p.attempt import Attempt, CurrentAttempt
from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.controllers.dist_opt_controller import SiteFailure
from flaremesh.p2p.extra import ExtraError
from flaremesh.p2p.progress import ProgressReporter
from flaremesh.p2p.tasks import ADDRESS, BY_VALUE, ITERATION, REASON
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
    ("waiting", "said"),
    [
        ({}, "bonn, worms: not prepared"),
        ({"worms": "bonn"}, "bonn: not prepared (by their own word these wait for others: worms)"),
        ({"bonn": "ulm"}, "bonn, worms: not prepared"),  # ulm is prepared
        ({"bonn": "worms", "worms": "bonn"}, "bonn, worms: not prepared"),
        ({"bonn": "bonn"}, "bonn, worms: not prepared"),
    ],
)
def test_a_late_site_is_named_and_those_that_wait_for_it_are_told_apart(controller, waiting, said):
    for site, other in waiting.items():
        controller._hear(site, json.dumps({"waits_for": other}).encode())
    with pytest.raises(SiteFailure, match=f"^{re.escape(said)}$"):
        controller._await_sites({"ulm"}, time.monotonic(), "not prepared", Signal())


def test_an_aborted_start_is_no_failure(controller):
    signal = Signal()
    signal.trigger(True)
    assert not controller._await_sites(set(), time.monotonic() + 60, "not prepared", signal)
    assert controller._failures.cause is None


def test_code_of_one_site_that_sees_values_is_told_to_all(controller):
    for site, by_value in (("bonn", False), ("ulm", True), ("worms", False)):
        controller._take_step(site, {ADDRESS: None, BY_VALUE: by_value})
    assert controller._by_value
    assert controller._linked == controller._prepared == set()


def test_an_executor_that_knows_one_config_task_gets_no_further_ones(controller):
    controller._take_step("bonn", {})
    assert controller._linked == controller._prepared == {"bonn"}


def replied(controller, site, task, result):
    """What the controller makes of a reply."""
    told = ClientTask(Client(site, ""), Task(task, Shareable()))
    told.result = result
    controller._take_result(told, FLContext())
    return controller._failures.cause and controller._failures.cause.reason


def dxo(data):
    return DXO(DataKind.APP_DEFINED, data=data).to_shareable()


def headless():
    shareable = Shareable()
    shareable["__headers__"] = "none"
    return shareable


def failed(**headers):
    return make_reply(ReturnCode.EXECUTION_EXCEPTION, headers=headers)


@pytest.mark.parametrize(
    "reply",
    [
        {ADDRESS: "bonn:80"},
        {ADDRESS: ["bonn", 0]},
        {ADDRESS: ["bonn", 9000]},
        {ADDRESS: ["elsewhere", 8102]},
        {ADDRESS: ["x" * 10_000, 8102]},
        {ADDRESS: None, BY_VALUE: {}},
    ],
)
def test_a_site_that_tells_a_false_address_fails_by_name(reply):
    links = {"bonn": {"host": "bonn", "ports": [8100, 8109]}}
    controller = DistOptController(Config(RING, {"iterations": 3}, links))
    assert replied(controller, "bonn", "config", dxo(reply)).startswith("what bonn replies is ")
    assert "bonn" not in controller._addresses


def test_an_address_of_the_configuration_is_taken():
    links = {"bonn": {"host": "bonn", "ports": [8100, 8109]}}
    controller = DistOptController(Config(RING, {"iterations": 3}, links))
    assert replied(controller, "bonn", "config", dxo({ADDRESS: ("bonn", 8102), BY_VALUE: False})) is None
    assert controller._addresses == {"bonn": ("bonn", 8102)}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (failed(**{REASON: "it \x1b[31mburns\n"}), r"bonn: it \x1b[31mburns"),
        (failed(**{REASON: {"of": "mine"}}), "bonn: EXECUTION_EXCEPTION"),
        (failed(**{REASON: "r" * 10**6}), f"bonn: {'r' * 1999}…"),
        (headless(), "what bonn replies is no reply: ValueError."),
        (b"no shareable", "what bonn replies is no reply: AttributeError."),
    ],
)
def test_a_failure_is_told_in_printable_words_with_the_name_of_the_site(controller, reply, said):
    assert replied(controller, "bonn", "run_algorithm", reply) == said


@pytest.mark.parametrize("claim", [-1, 10**18, True, "3", 2.5, [1]])
def test_a_site_does_not_push_its_failure_back_in_time(controller, claim):
    replied(controller, "ulm", "run_algorithm", failed(**{REASON: "no message from worms", ITERATION: 1}))
    assert (
        replied(controller, "bonn", "run_algorithm", failed(**{REASON: "none", ITERATION: claim}))
        == "bonn: none"
    )


def test_a_panic_of_a_sites_code_ends_the_run_with_its_words(controller):
    controller._hear("ulm", json.dumps({"iteration": 2, "panic": "the data are gone"}).encode())
    controller._hear("ulm", json.dumps({"iteration": 2, "panic": "the data are gone"}).encode())
    assert controller._failures.cause.reason == "ulm: the data are gone"
    assert len(controller._failures) == 1


def test_a_start_timeout_that_is_no_time_is_refused():
    controller = DistOptController(Config(RING, {"start_timeout": "soon"}))
    with pytest.raises(ExtraError, match=r'extra\["start_timeout"\] must be a number above 0, not a str'):
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


@pytest.mark.parametrize(("joining", "is_loss"), [((), False), (("bonn",), True)])
def test_what_fails_while_a_site_joins_lets_the_others_go_on(controller, tmp_path, joining, is_loss):
    begun = Attempt("job", ("bonn", "ulm", "worms"), 600.0, joining=joining)
    attempt.write(tmp_path, begun)
    controller._attempt = CurrentAttempt(tmp_path, begun)
    replied(controller, "bonn", "config", failed(**{REASON: "the data are gone"}))
    assert controller._failures.cause.is_loss is is_loss


def test_what_fails_once_a_site_has_joined_is_no_loss(controller, tmp_path):
    begun = Attempt("job", ("bonn", "ulm", "worms"), 600.0, joining=("bonn",))
    attempt.write(tmp_path, begun)
    controller._attempt = CurrentAttempt(tmp_path, begun)
    controller._attempt.prepared()
    replied(controller, "bonn", "run_algorithm", failed(**{REASON: "the data are gone"}))
    assert not controller._failures.cause.is_loss


def test_the_attempt_ends_for_who_is_back_once_all_have_written_a_checkpoint_since(controller, tmp_path):
    begun = Attempt("job", ("bonn", "ulm"), 600.0, quorum=2, absent=("worms",))
    attempt.write(tmp_path, begun)
    controller._attempt = CurrentAttempt(tmp_path, begun)

    def written(**iterations):
        for site, iteration in iterations.items():
            controller._hear(site, json.dumps({"iteration": iteration, "checkpoint": iteration}).encode())
        controller._let_join()
        return controller._failures.cause

    assert written(bonn=1, ulm=1) is None
    attempt.announce(tmp_path, ["worms"])
    assert written(bonn=1) is None
    assert written(bonn=2) is None
    ended = written(ulm=2)
    assert ended.is_loss
    assert controller._joining == ("worms",)
