"""The server's storage under its old path, which kits name."""

from flaremesh.p2p.nvflare.storage import WorkspaceStorage

__all__ = ["WorkspaceStorage"]
