"""Tar archives, in which Docker and Kubernetes take and give files."""

import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, cast

from flaremesh.deploy.targets.base import DeployError
from flaremesh.printable import printable

_MOST_BYTES = 64 << 30  # of what a site keeps of a run: its model, and its history
_MOST_ENTRIES = 10_000
_MOST_AT_ONCE = 16 << 10  # tarfile copies content in pieces of this length

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


def room(folder: Path) -> int:
    """How many bytes an archive may have that is kept and unpacked beside ``folder``: room is left."""
    return min(_MOST_BYTES, shutil.disk_usage(folder.parent).free * 2 // 5)


def take(chunks: Iterable[bytes], folder: Path) -> None:
    """Make ``folder`` of the one folder in an archive that a stranger sends.

    The archive is a tar file without compression, of folders and of files, each once.

    Args:
        chunks: the archive.
        folder: the copy; must not exist.

    Raises:
        DeployError: it is cut off, longer than `room`, or holds anything else; nothing of it is left.
    """
    most = room(folder)
    with tempfile.TemporaryFile(dir=folder.parent) as archive:
        for chunk in chunks:
            if archive.tell() + len(chunk) > most:
                raise DeployError(f"there are more than {most} bytes, for which this machine has no room")
            archive.write(chunk)
        archive.seek(0)
        unpack(archive, folder)


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Make ``folder`` of the one folder in an archive, as `take` does."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            with tarfile.open(fileobj=cast(IO[bytes], _InPieces(archive)), mode="r:") as tar:
                _extract(tar, Path(scratch))
            (content,) = Path(scratch).iterdir()
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise DeployError(f"the archive is damaged or cut off: {printable(error, 200)}") from None
        content.rename(folder)


class _InPieces:
    """A file that is read in short pieces only: tarfile takes headers, however long, whole into memory."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _MOST_AT_ONCE:
            raise tarfile.ReadError("a header is too long")
        return self._file.read(size)


def _extract(tar: tarfile.TarFile, scratch: Path) -> None:
    taken: set[Path] = set()
    for count, entry in enumerate(tar, start=1):
        name, path = printable(entry.name, 80), Path(entry.name.lstrip("/"))
        if count > _MOST_ENTRIES:
            raise DeployError(f"the archive has more than {_MOST_ENTRIES} files and folders")
        if not (entry.isdir() or entry.isreg()) or entry.issparse():
            raise DeployError(f"{name} in the archive is neither a file nor a folder")
        if path in taken or not entry.name.isprintable():
            raise DeployError(f"the archive has a name twice, or one that cannot be printed: {name}")
        taken.add(path)
        tar.extract(entry, scratch, filter="data")
