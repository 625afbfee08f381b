"""The server's storage under the name that kits give it."""

from flaremesh.p2p.nvflare.storage import WorkspaceStorage

__all__ = ["WorkspaceStorage"]
