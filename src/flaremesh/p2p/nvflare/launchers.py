"""How NVFlare is to start the processes of jobs, and where it is to store them.

This hides the classes of NVFlare's that kits replace, and the line of arguments that NVFlare composes.
"""

import shlex
import sys
from collections.abc import Iterable

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.app_common.storages.filesystem_storage import FilesystemStorage
from nvflare.utils.job_launcher_utils import get_client_job_args, get_server_job_args

__all__ = [
    "ClientProcessJobLauncher",
    "FilesystemStorage",
    "ServerProcessJobLauncher",
    "server_job_command",
    "site_job_command",
]


def site_job_command(fl_ctx: FLContext) -> str:
    """The line that starts a job's process at a site, quoted for a shell."""
    return _command(fl_ctx, get_client_job_args())


def server_job_command(fl_ctx: FLContext) -> str:
    """The line that starts a job's process at the server, quoted for a shell."""
    return _command(fl_ctx, get_server_job_args())


def _command(fl_ctx: FLContext, names: Iterable[str]) -> str:
    given = fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS)
    words = [sys.executable]
    for name in names:
        if name in given:
            option, value = given[name]
            # the options are several words, none of which has a blank
            words += [option, *(value.split() if name == JobProcessArgs.OPTIONS else [value])]
    return shlex.join(map(str, words))
