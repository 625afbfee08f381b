"""Tar archives, in which Docker and Kubernetes take and give files."""

import io
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from flaremesh.deploy.targets.base import DeployError

Filter = Callable[[tarfile.TarInfo], tarfile.TarInfo | None]
"""Changes an entry, or leaves it out with None."""


def of_folder(folder: Path, changed: Filter) -> bytes:
    """An archive of what is in a folder, its entries changed by ``changed``."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder, arcname=".", filter=changed)
    return archive.getvalue()


def of_files(files: Mapping[str, bytes]) -> bytes:
    """An archive of files that everybody may read, by their absolute paths."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), 0o444
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Make ``folder`` of the one folder in an archive.

    Raises:
        DeployError: the archive is cut off, or would write elsewhere.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(scratch, filter="data")
            (content,) = Path(scratch).iterdir()
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise DeployError(f"the archive is damaged or cut off: {error}") from None
        content.rename(folder)
