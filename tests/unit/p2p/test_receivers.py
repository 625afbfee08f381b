"""Receivers of metrics get what a site measures in a thread of their own, and a run waits for none."""

import threading
from typing import Any

import pytest
from nvflare.apis.analytix import AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.engine_spec import EngineSpec
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.shareable import Shareable
from nvflare.app_common.widgets.streaming import AnalyticsReceiver

from flaremesh.metrics.sink import Evaluation, Iteration, Logged
from flaremesh.p2p.nvflare import receivers
from flaremesh.p2p.nvflare.receivers import LiveMetrics


class Kept(AnalyticsReceiver):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def initialize(self, fl_ctx: FLContext) -> None:
        self.kept.append("begin")

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        self.may_go_on.wait()
        data: Any = AnalyticsData.from_dxo(from_shareable(shareable))
        self.kept.append((record_origin, data.tag, data.value, data.step))
        if data.tag == "bad":
            raise ValueError("no such metric")

    def finalize(self, fl_ctx: FLContext) -> None:
        self.kept.append("end")


class Broken(Kept):
    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        raise OSError("the server is gone")


class Engine(EngineSpec):
    """Makes NVFlare's own contexts, and is asked for nothing else."""

    def validate_targets(self, target_names: list[str]) -> tuple[list[Any], list[str]]:
        pytest.fail("nobody is sent anything")

    def new_context(self) -> FLContext:
        return FLContextManager(self, "bonn", "job", {}, {}).new_context()


def live(*some: AnalyticsReceiver) -> LiveMetrics:
    return LiveMetrics(Engine().new_context(), some)


def test_a_receiver_gets_all_that_is_finite_by_its_step_from_begin_to_end() -> None:
    receiver = Kept()
    metrics = live(Broken(), receiver)
    metrics.iteration(Iteration(1, None, 0.25, 1.0, 0.0, 0.0))
    metrics.logged(Logged(1, 40, {"lr": 0.5, "bad": 1.0, "nan": float("nan")}))
    metrics.evaluation(Evaluation(2, {"accuracy": 0.75}))
    metrics.close()
    metrics.close()
    assert receiver.kept == [
        "begin",
        ("bonn", "consensus distance", 0.25, 1),
        ("bonn", "lr", 0.5, 40),
        ("bonn", "bad", 1.0, 40),
        ("bonn", "accuracy", 0.75, 2),
        "end",
    ]


def test_a_run_does_not_wait_for_a_receiver_that_is_too_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(receivers, "_MOST_WAITING", 5)
    monkeypatch.setattr(receivers, "_END_SECONDS", 0.2)
    receiver = Kept()
    receiver.may_go_on.clear()
    metrics = live(receiver)
    for iteration in range(1, 101):
        metrics.iteration(Iteration(iteration, None, 0.25, 1.0, 0.0, 0.0))
    metrics.close()
    receiver.may_go_on.set()
    assert "did not reach the site's receivers" in caplog.text
