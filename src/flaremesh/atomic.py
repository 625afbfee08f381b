"""Files that are replaced in one step: a reader finds the old content or the new one, never a part."""

import os
from contextlib import suppress
from pathlib import Path


def write(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write a file in one step, by way of ``<name>.partial`` beside it.

    Args:
        path: of the file.
        content: text is written as UTF-8.
        durable: wait until it would outlast a power cut too, which takes some milliseconds.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    move(partial, path, durable=durable)


def move(new: Path, place: Path, *, durable: bool = False) -> None:
    """Put the file ``new``, which is on the same file system, in a place that another file may hold.

    Args:
        new: the file.
        place: where it goes.
        durable: wait until it would outlast a power cut too, which takes some milliseconds.

    Raises:
        OSError: it cannot be moved; what was there before stays.
    """
    if durable:
        _flush(new)
    new.replace(place)
    if durable:
        # the file is in its place already, and some network file systems cannot flush a folder
        with suppress(OSError):
            _flush(place.parent)


def _flush(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
