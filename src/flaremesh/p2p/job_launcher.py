"""The launchers of job processes under their old paths, which kits name."""

from flaremesh.p2p.nvflare.launchers import ServerJobLauncher, SiteJobLauncher

__all__ = ["ServerJobLauncher", "SiteJobLauncher"]
