"""Ends what still works on a run: ``python -m flaremesh.p2p.job_processes RUN SECONDS``."""

import sys
from typing import Final

import psutil

COMMAND: Final = ("python", "-m", "flaremesh.p2p.job_processes")


def end(run_id: str, timeout: float) -> None:
    """Wait until no process of this machine or container works on a run; then kill those that still do.

    NVFlare gives every process that it starts for a run the run's id as an argument.

    Args:
        run_id: id of the run.
        timeout: seconds to wait.
    """
    working = [p for p in psutil.process_iter(["cmdline"]) if run_id in (p.info["cmdline"] or ())]
    others = [p for p in working if p.pid != psutil.Process().pid]
    _, left = psutil.wait_procs(others, timeout=timeout)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=5.0)


if __name__ == "__main__":
    end(sys.argv[1], float(sys.argv[2]))
