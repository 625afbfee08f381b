"""When the server's process tells a job that it does not hear a site."""

import time
from types import SimpleNamespace

import pytest

from flaremesh.p2p.nvflare.server import ServerProcess
from flaremesh.waiting import wait_while

SILENT = "client dead"
PATIENCE = 0.5


class Engine:
    """Of a server, with what a job was told and the sites that are heard."""

    def __init__(self):
        self.told, self.heard = [], set()
        self.runner = SimpleNamespace(running_jobs={"patient": None, "hasty": None})

    def get_component(self, component_id):
        return self.runner

    def get_client_from_name(self, name):
        return name if name in self.heard else None

    def notify_dead_job(self, job_id, client_name, reason):
        self.told.append((job_id, client_name, reason))


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture(autouse=True)
def process(engine):
    process = ServerProcess(SimpleNamespace(get_engine=lambda: engine))
    process.bear_with_silence({"patient": PATIENCE, "hasty": 0.0}.__getitem__)
    return process


def told(engine, seconds=20.0):
    wait_while(lambda: not engine.told, seconds, 0.01)
    return engine.told


def test_a_site_that_stays_silent_is_told_of_when_the_patience_is_over(engine):
    began = time.monotonic()
    engine.notify_dead_job("patient", "bonn", SILENT)
    assert told(engine) == [("patient", "bonn", SILENT)]
    assert time.monotonic() - began >= PATIENCE


def test_a_site_that_is_heard_again_in_time_is_told_of_to_nobody(engine):
    engine.notify_dead_job("patient", "bonn", SILENT)
    engine.heard.add("bonn")
    assert told(engine, 2 * PATIENCE) == []


def test_a_later_silence_has_a_patience_of_its_own(process, engine):
    engine.notify_dead_job("patient", "bonn", SILENT)
    assert not wait_while(lambda: process.silence(["bonn"]) < 0.7 * PATIENCE, 20, 0.01)
    engine.notify_dead_job("patient", "bonn", SILENT)  # it has been heard meanwhile, and is silent again
    assert told(engine, 0.7 * PATIENCE) == []
    assert len(told(engine)) == 1


@pytest.mark.parametrize(
    ("job", "reason"), [("hasty", SILENT), ("patient", "missing job on client"), ("patient", "it is back")]
)
def test_who_is_known_to_be_lost_is_told_of_at_once(engine, job, reason):
    engine.notify_dead_job(job, "bonn", reason)
    assert engine.told == [(job, "bonn", reason)]


def test_a_job_that_has_ended_meanwhile_is_told_nothing(engine):
    engine.notify_dead_job("patient", "bonn", SILENT)
    del engine.runner.running_jobs["patient"]
    assert told(engine, 2 * PATIENCE) == []


def test_how_long_a_site_has_been_silent_is_known_until_it_is_heard(process, engine):
    assert process.silence(["bonn"]) == 0
    engine.notify_dead_job("patient", "bonn", SILENT)
    assert not wait_while(lambda: process.silence(["ulm", "bonn"]) < PATIENCE, 20, 0.01)
    engine.heard.add("bonn")
    assert process.silence(["ulm", "bonn"]) == 0
