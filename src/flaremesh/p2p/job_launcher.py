"""What starts the processes of jobs, under the names that kits give it."""

from flaremesh.p2p.nvflare.launchers import ServerJobLauncher, SiteJobLauncher

__all__ = ["ServerJobLauncher", "SiteJobLauncher"]
