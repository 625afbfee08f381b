"""The process of a meeting point that the server's agent keeps running, and what its metrics say."""

import os
import resource
import signal
import socket

import psutil
import pytest
from meeting_place import MESH, comes_true, met, said, server, ticket

from flaremesh.meeting.figures import LINE_BYTES, Figures, read
from flaremesh.meeting.refusal import Reason
from flaremesh.metrics.names import AgentMetric
from flaremesh.p2p.agents.meeting_point import MeetingProcess, families
from flaremesh.p2p.charter import Charter
from flaremesh.record import RecordError
from ports import free_port


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def process(authority, port, tmp_path):
    """One that answers."""
    (tmp_path / "rootCA.pem").write_bytes(authority.file.read_bytes())
    process = MeetingProcess(tmp_path, Charter(MESH, "server"), port)
    try:
        assert comes_true(lambda: process.figures is not None)
        yield process
    finally:
        process.stop()


def child():
    """The process."""
    (found,) = (each for each in psutil.Process().children() if "flaremesh.meeting" in each.cmdline())
    return found


def values(figures):
    """What is shown, by name and label."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families(figures)
        for sample in family.samples
    }


PAIRS, WAITING, FORWARDED, REFUSALS = (
    metric.value.full_name
    for metric in (
        AgentMetric.MEETING_PAIRS,
        AgentMetric.MEETING_WAITING,
        AgentMetric.MEETING_BYTES,
        AgentMetric.MEETING_REFUSALS,
    )
)


class Place:
    """Where the process is, as ``meeting_place`` dials it."""

    def __init__(self, authority, port):
        self.address, self._server = ("127.0.0.1", port), server(authority)

    def ticket(self, *pair, run="run"):
        return ticket(self._server, pair, run)


def test_what_the_process_joins_forwards_and_refuses_is_shown(process, authority, port):
    assert values(process.figures) == {(PAIRS,): 0, (WAITING,): 0, (FORWARDED,): 0}
    with socket.create_connection(("127.0.0.1", port), 10) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert said(stranger) is Reason.MALFORMED
    first, second = met(Place(authority, port), {name: authority.issue(name) for name in "ab"})
    with first, second:
        first.sendall(b"x" * 1000)
        assert second.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
        expected = {(PAIRS,): 1, (WAITING,): 0, (FORWARDED,): 1000, (REFUSALS, "malformed"): 1}
        assert comes_true(lambda: values(process.figures) == expected), values(process.figures)


def test_one_that_is_killed_is_started_again_and_counts_from_the_beginning(process, port):
    with socket.create_connection(("127.0.0.1", port), 10) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert said(stranger) is Reason.MALFORMED
    assert comes_true(lambda: process.figures.refused)
    os.kill(child().pid, signal.SIGKILL)
    assert comes_true(lambda: process.figures is None)
    assert values(None) == {}
    assert comes_true(lambda: process.figures == Figures())


@pytest.fixture
def few_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_it_opens_as_many_files_as_the_machine_allows(few_files, process):
    least, most = child().rlimit(psutil.RLIMIT_NOFILE)
    assert least == most


@pytest.mark.parametrize(
    "line", [b"", b"{", b'{"joined": -1}', b'{"refused": {"anything": 1}}', b" " * LINE_BYTES + b"{}"]
)
def test_what_are_no_figures_is_refused(line):
    with pytest.raises(RecordError, match="a meeting point's figures"):
        read(line)
