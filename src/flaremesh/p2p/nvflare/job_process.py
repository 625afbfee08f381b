"""The process of a job: ``python -m flaremesh.p2p.nvflare.job_process WORKSPACE RUN STORE MODULE [WORD...]``.

It gives up what jobs must not have and becomes NVFlare's process, whose MODULE and arguments these
are. STORE is the run's, or empty.
Nothing that comes with the job is imported before, and the job's folder is not on Python's path when it
starts: a file named sitecustomize.py there would run first.
"""

import os
import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Any

from flaremesh.sandbox.files import confine

_GRACE_SECONDS = 0.5  # for NVFlare's word to the sites that the job has ended, instead of its 3 s
_TENSOR_DOWNLOADS = "nvflare.app_opt.pt.tensor_downloader"  # the module that lists them


def main() -> None:
    """Confine this process, then run NVFlare's."""
    workspace, run, store, module, *arguments = sys.argv[1:]
    folder = Path(workspace, run)
    confine(Path(workspace), run, os.environ, Path(store) if store else None)
    _keep_log_configuration()
    _end_soon()
    _clean_up_no_more_than_there_is()
    _admit_ipv6()
    os.chdir(folder)  # a relative path in a job's code leads into the run's folder
    _present(folder, Path(workspace, "startup"))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _keep_log_configuration() -> None:
    """Take no configuration of the log from the server: it can name any function, and its arguments."""
    from nvflare.private.fed.client.admin_commands import AdminCommands, ConfigureJobLogCommand

    AdminCommands.commands[:] = [
        command for command in AdminCommands.commands if not isinstance(command, ConfigureJobLogCommand)
    ]


def _end_soon() -> None:
    """Wait less at the end: all that a run sends is answered before, and its next attempt waits for this."""
    from nvflare.fuel.f3.mpm import MainProcessMonitor

    MainProcessMonitor.run = partial(MainProcessMonitor.run, shutdown_grace_time=_GRACE_SECONDS)


def _clean_up_no_more_than_there_is() -> None:
    """Load no torch at the end of a run, which takes a second, to ask for downloads of its tensors."""
    from nvflare.apis.impl.wf_comm_server import WFCommServer

    clean_up = WFCommServer._cleanup_inflight_tensor_downloads

    def clean_up_if_any(communicator: WFCommServer, fl_ctx: Any) -> None:
        if _TENSOR_DOWNLOADS in sys.modules:
            clean_up(communicator, fl_ctx)

    WFCommServer._cleanup_inflight_tensor_downloads = clean_up_if_any


def _admit_ipv6() -> None:
    from flaremesh.p2p.nvflare import ipv6

    ipv6.admit()


def _present(folder: Path, startup: Path) -> None:
    """Have NVFlare use the run's credential in the place of the kit's."""
    # imported late: it takes a second, and must not happen before the process is confined
    from nvflare.apis.workspace import Workspace
    from nvflare.fuel.f3.cellnet import credential_manager

    from flaremesh.p2p.nvflare.run_credential import credential_of
    from flaremesh.p2p.nvflare.startup import startup_files

    kit, run = startup_files(startup), credential_of(folder)
    instead = {kit.key.name: str(run.key)}
    if not kit.is_server:
        instead[kit.certificate.name] = str(run.certificate)
    place = Workspace.get_file_path_in_startup

    def place_of_run(workspace: Workspace, name: str) -> str:
        return instead.get(name) or str(place(workspace, name))

    Workspace.get_file_path_in_startup = place_of_run
    # its cipher for messages between cells knows no name constraints and refuses the run's certificate
    credential_manager.SimpleCellCipher = lambda *_: None


if __name__ == "__main__":
    main()
