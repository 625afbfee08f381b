"""Where the server keeps jobs and snapshots."""

import threading
from pathlib import Path
from typing import Any

from nvflare.app_common.storages.filesystem_storage import FilesystemStorage
from typing_extensions import override


class WorkspaceStorage(FilesystemStorage):
    """NVFlare's file storage, rooted in the workspace instead of at a path fixed when the kit was made.

    NVFlare demands an absolute root and offers no variable for the workspace, but makes it the working
    directory before it builds components.

    Args:
        folder: root of the storage, relative to the workspace.
    """

    def __init__(self, folder: str = "."):
        super().__init__(str(Path(folder).resolve()))
        self._updating = threading.Lock()

    @override
    def update_meta(self, uri: str, meta: dict[str, Any], replace: bool) -> None:
        """As in NVFlare, which reads, adds and writes: what one of two threads has added would be lost."""
        with self._updating:
            super().update_meta(uri, meta, replace)
