"""Starts NVFlare's job processes, whatever characters are in the paths of workspace and interpreter.

NVFlare writes a job's command as one line and splits it as a shell would, without quoting what it puts there.
"""

from collections.abc import Mapping
from typing import Any

from nvflare.apis.fl_context import FLContext

from flaremesh.p2p.nvflare.launchers import (
    ClientProcessJobLauncher,
    ServerProcessJobLauncher,
    server_job_command,
    site_job_command,
)


class SiteJobLauncher(ClientProcessJobLauncher):
    """NVFlare's, for a site."""

    def get_command(self, job_meta: Mapping[str, Any], fl_ctx: FLContext) -> str:
        """The line that NVFlare splits."""
        return site_job_command(fl_ctx)


class ServerJobLauncher(ServerProcessJobLauncher):
    """NVFlare's, for the server."""

    def get_command(self, job_meta: Mapping[str, Any], fl_ctx: FLContext) -> str:
        """The line that NVFlare splits."""
        return server_job_command(fl_ctx)
