"""NVFlare's processes as they are seen from outside: how one is started, and how one is recognised.

This hides the modules that NVFlare runs and the arguments that it gives them. It imports nothing of NVFlare,
because that takes seconds.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

JOB_MODULES: Final = frozenset(
    {"nvflare.private.fed.app.client.worker_process", "nvflare.private.fed.app.server.runner_process"}
)
"""What the process of a job runs, at a site and at the server."""

_SITE_MODULE = "nvflare.private.fed.app.client.client_train"
_SERVER_MODULE = "nvflare.private.fed.app.server.server_train"

PARTICIPANT_MODULES: Final = frozenset({_SITE_MODULE, _SERVER_MODULE})
"""What a site's and the server's own process runs."""


def site_command(workspace: Path, name: str, org: str) -> list[str]:
    """The command that runs a site in ``workspace``, an absolute path."""
    return _command(_SITE_MODULE, "fed_client.json", workspace, f"uid={name}", f"org={org}")


def server_command(workspace: Path, org: str) -> list[str]:
    """The command that runs the server in ``workspace``, an absolute path."""
    return _command(_SERVER_MODULE, "fed_server.json", workspace, f"org={org}")


def works_on_run(arguments: Sequence[str], run_id: str) -> bool:
    """Whether these are the arguments of a process that NVFlare started for a run.

    NVFlare gives each of them the run's id as an argument. Others may have it too, such as a user's
    ``flaremesh report``.
    """
    return run_id in arguments and is_job(arguments)


def is_job(arguments: Sequence[str]) -> bool:
    """Whether these are the arguments of the process of a job."""
    return not JOB_MODULES.isdisjoint(arguments)


def works_in(arguments: Sequence[str], workspace: Path) -> bool:
    """Whether these are the arguments of a process on ``workspace``; NVFlare gives it to all of them."""
    return str(workspace) in arguments


def is_participant(arguments: Sequence[str]) -> bool:
    """Whether these are the arguments of a site's or of the server's own process."""
    return not PARTICIPANT_MODULES.isdisjoint(arguments)


def _command(module: str, config: str, workspace: Path, *settings: str) -> list[str]:
    return [
        *(sys.executable, "-u", "-m", module, "-m", str(workspace), "-s", config),
        *("--set", "secure_train=true", *settings, "config_folder=config"),
    ]
