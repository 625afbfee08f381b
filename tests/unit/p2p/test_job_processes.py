"""Which processes the end of a run ends."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psutil
import pytest

from flaremesh.p2p import job_processes
from flaremesh.p2p.nvflare.processes import JOB_MODULES, PARTICIPANT_MODULES
from flaremesh.waiting import wait_while

PAUSE = "import signal; signal.pause()"
RUN = "0f1e2d3c-run"

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that do nothing, with these arguments."""
    with ExitStack() as stack:

        def begin(*arguments: str, code: str = PAUSE) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", code, *arguments]
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


@pytest.mark.parametrize("module", sorted(JOB_MODULES))
def test_jobs_whose_participant_was_killed_end_before_it_starts_again(start, tmp_path, module) -> None:
    mine, others = (
        start("-m", module, "-m", str(tmp_path)),
        start("-m", module, "-m", str(tmp_path / "other")),
    )
    job_processes.end_orphans(tmp_path)
    assert mine.poll() is not None
    assert others.poll() is None


@pytest.mark.parametrize("module", sorted(PARTICIPANT_MODULES))
def test_jobs_of_a_participant_that_runs_go_on_when_it_is_started_once_more(start, tmp_path, module) -> None:
    job = f"import subprocess as s, sys; s.run([sys.executable, '-c', {PAUSE!r}, *sys.argv[2:]])"
    participant = psutil.Process(start(module, *sorted(JOB_MODULES), str(tmp_path), code=job).pid)
    wait_while(lambda: not participant.children(), 20, 0.05)
    (child,) = participant.children()
    job_processes.end_orphans(tmp_path)
    assert child.is_running()
    child.kill()
