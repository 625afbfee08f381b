"""Launchers of job processes that allow any character in paths.

NVFlare's own write a job's command as one line and split it as a shell would, without quoting what they put
there. This hides these classes and the arguments that NVFlare prepares for them.
"""

import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.utils.job_launcher_utils import get_client_job_args, get_server_job_args
from typing_extensions import override


class SiteJobLauncher(ClientProcessJobLauncher):
    """NVFlare's launcher at a site, with a command that is quoted."""

    @override
    def get_command(self, job_meta: Mapping[str, Any], fl_ctx: FLContext) -> str:
        return _command(fl_ctx, get_client_job_args())


class ServerJobLauncher(ServerProcessJobLauncher):
    """NVFlare's launcher at the server, with a command that is quoted."""

    @override
    def get_command(self, job_meta: Mapping[str, Any], fl_ctx: FLContext) -> str:
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
