"""Where the server keeps jobs and snapshots."""

from pathlib import Path

from nvflare.app_common.storages.filesystem_storage import FilesystemStorage


class WorkspaceStorage(FilesystemStorage):
    """NVFlare's file storage, rooted in the workspace instead of at a path fixed when the kit was made.

    NVFlare demands an absolute root and offers no variable for the workspace, but makes it the working
    directory before it builds components.

    Args:
        folder: root of the storage, relative to the workspace.
    """

    def __init__(self, folder: str = "."):
        super().__init__(str(Path(folder).resolve()))
