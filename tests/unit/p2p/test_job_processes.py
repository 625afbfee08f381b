"""Which processes the end of a run ends."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from flaremesh.p2p import job_processes
from flaremesh.p2p.nvflare.processes import JOB_MODULES

RUN = "0f1e2d3c-run"

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that do nothing, with these arguments."""
    with ExitStack() as stack:

        def begin(*arguments: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", "import signal; signal.pause()", *arguments]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
            return process

        yield begin


@pytest.mark.parametrize("module", sorted(JOB_MODULES))
def test_the_job_processes_of_the_run_end_and_those_of_others_go_on(start: Start, module: str) -> None:
    mine, others = start("-m", module, "-n", RUN), start("-m", module, "-n", "another-run")
    job_processes.end(RUN, 0)
    assert mine.poll() is not None
    assert others.poll() is None


def test_a_command_of_a_user_about_the_run_goes_on(start: Start) -> None:
    report = start("report", "--live", "--run-id", RUN)
    job_processes.end(RUN, 0)
    assert report.poll() is None
