"""Checks of where a command is to write, before it works, so that no result is lost."""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flaremesh.errors import FlaremeshError
from flaremesh.printable import printable

if TYPE_CHECKING:
    from rich.console import Console  # which --help does not need
    from rich.table import Table

_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RIGHTS: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_PATH: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


class FileError(FlaremeshError):
    """A file or folder cannot be used; the message says which one, why, and what to do."""

    exit_code = 2

    @classmethod
    def of(cls, error: OSError) -> "FileError":
        """The operating system's error as a sentence."""
        where = "" if error.filename is None else f"{error.filename}: "
        return cls(f"{where}{error.strerror or error}. {_remedy(error.errno)}".strip())


def terminal(*, stderr: bool = False, highlight: bool = True) -> "Console":
    """The terminal, for the words of strangers too: nothing in them is markup, or the name of an emoji."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=highlight, markup=False, emoji=False)


def facts(named: Iterable[tuple[str, str]]) -> "Table":
    """A table of facts and their names, in printable words."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    for name, fact in named:
        table.add_row(name, printable(fact))
    return table


def folder(path: Path) -> Path:
    """The path itself, if it is a folder or one could be made there.

    Raises:
        FileError: a file is in its place or in that of a parent.
    """
    try:
        for place in (path, *path.parents):
            if place.is_dir():
                return path
            if place.exists():
                raise FileError(
                    f"{path} cannot be a folder: {place} is a file. Name another one with --output."
                )
    except OSError as error:
        raise FileError.of(error) from None
    return path


def writable_folder(path: Path) -> Path:
    """The path itself, if it is a folder that can be written to, or can be made; it is not made yet.

    Raises:
        FileError: it is neither.
    """
    place = next(place for place in (folder(path), *path.absolute().parents) if place.is_dir())
    if not os.access(place, os.W_OK | os.X_OK):
        raise FileError(
            f"nothing can be written into {place}: it belongs to somebody else, or is read-only. "
            "Name another folder with --output."
        )
    return path


def writable_file(path: Path) -> Path:
    """The path itself, if it is a file that can be written to, or can be made; its folder is made.

    Raises:
        FileError: it is neither.
    """
    if path.is_dir():
        raise FileError(f"{path} is a folder. Name a file with --output, e.g. {path / 'history.json'}.")
    try:
        folder(path.parent).mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name) as probe:
                probe.write(bytes(4096))
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        raise FileError.of(error) from None
    return path


def _remedy(number: int | None) -> str:
    if number in _ROOM:
        return "Make room there."
    if number in _RIGHTS:
        return "Make it accessible to the user of this command, or name another place."
    return "Check the path." if number in _PATH else ""
