"""Ends what still works on a run: ``python -m flaremesh.p2p.job_processes RUN SECONDS``."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import psutil

COMMAND: Final = ("python", "-m", "flaremesh.p2p.job_processes")

MODULES: Final = frozenset(
    {"nvflare.private.fed.app.client.worker_process", "nvflare.private.fed.app.server.runner_process"}
)
"""What NVFlare runs as a job's process, at a site and at the server."""

PARENT_MODULES: Final = frozenset(
    {"nvflare.private.fed.app.client.client_train", "nvflare.private.fed.app.server.server_train"}
)
"""What a site's and the server's own process runs; see participant.command."""


def end(run_id: str, timeout: float) -> None:
    """Wait until no process of this machine or container works on a run; then kill those that still do.

    NVFlare gives every process that it starts for a run the run's id as an argument. Others may have it too,
    such as a user's ``flaremesh report``: they are left alone.

    Args:
        run_id: id of the run.
        timeout: seconds to wait.
    """
    working = [
        process
        for process in psutil.process_iter(["cmdline"])
        if run_id in (arguments := process.info["cmdline"] or ()) and not MODULES.isdisjoint(arguments)
    ]
    kill_late(working, timeout)


def kill_late(processes: Sequence[psutil.Process], timeout: float) -> None:
    """Wait until all have ended, and kill those that have not within ``timeout`` seconds."""
    _, left = psutil.wait_procs(processes, timeout=timeout)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5.0)


if __name__ == "__main__":
    end(sys.argv[1], float(sys.argv[2]))
