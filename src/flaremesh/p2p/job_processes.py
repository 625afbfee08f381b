"""Ends the processes of jobs; those of a run by ``python -m flaremesh.p2p.job_processes RUN SECONDS``."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from flaremesh.p2p.nvflare.processes import is_job, is_participant, works_in, works_on_run

COMMAND: Final = ("python", "-m", "flaremesh.p2p.job_processes")


def end(run_id: str, timeout: float) -> None:
    """Wait until no process of this machine or container works on a run, then kill those that still do.

    Args:
        run_id: id of the run.
        timeout: seconds to wait.
    """
    working = [
        process
        for process in psutil.process_iter(["cmdline"])
        if works_on_run(process.info["cmdline"] or (), run_id)
    ]
    kill_late(working, timeout)


def end_orphans(workspace: Path) -> None:
    """Kill the jobs in a workspace whose participant was killed.

    NVFlare has them end some seconds later, and until then the next attempt of their run would meet them.
    """
    orphans = [
        process
        for process in psutil.process_iter(["cmdline"])
        if is_job(arguments := process.info["cmdline"] or ())
        and works_in(arguments, workspace)
        and not _has_participant(process)
    ]
    kill_late(orphans, 0)


def _has_participant(job: psutil.Process) -> bool:
    try:
        parent = job.parent()
        return parent is not None and is_participant(parent.cmdline())
    except psutil.Error:  # it has ended meanwhile, or is another user's
        return False


def kill_late(processes: Sequence[psutil.Process], timeout: float) -> None:
    """Wait until all have ended, and kill those that have not within ``timeout`` seconds."""
    _, left = psutil.wait_procs(processes, timeout=timeout)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5.0)


if __name__ == "__main__":
    end(sys.argv[1], float(sys.argv[2]))
