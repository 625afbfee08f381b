"""The zip archive in which an app arrives: unpacked within bounds, and only files and folders of it."""

import io
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from flaremesh.p2p.gate.request import Refused

MOST_FILES: Final = 10_000
MOST_BYTES: Final = 512 << 20
"""Of all files together, unpacked: problems may bring data along, and a site's memory and disk are finite."""

_DEEPEST = 32
_LONGEST_NAME = 1000
_CHUNK = 1 << 20


def unpack(archive: bytes, folder: Path) -> None:
    """Unpack an app into an empty folder.

    Raises:
        Refused: it is no zip archive, or holds what no app does.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = opened.infolist()
            if len(entries) > MOST_FILES:
                raise Refused(f"the app has more than {MOST_FILES} files")
            left = MOST_BYTES
            for entry in entries:
                left -= _unpacked(opened, entry, folder, left)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, ValueError):
        raise Refused("the app is no archive that can be unpacked") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise Refused("the app's archive has one name twice") from None


def _unpacked(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, most: int) -> int:
    """Write one entry; returns its bytes, which are counted as they come, since its header may lie."""
    path = PurePosixPath(entry.filename)
    parts = entry.filename.removesuffix("/").split("/")
    if (
        path.is_absolute()
        or not all(parts)
        or {".", ".."}.intersection(parts)
        or len(parts) > _DEEPEST
        or len(entry.filename) > _LONGEST_NAME
        or not entry.filename.isprintable()
        or "\\" in entry.filename
    ):
        raise Refused("the app's archive has a name that leads out of its folder, or is none")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused("the app's archive holds a link or a device")
    target = folder / path
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with opened.open(entry) as source, target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise Refused(f"the app is larger than {MOST_BYTES >> 20} MiB when it is unpacked")
            file.write(chunk)
    return written
