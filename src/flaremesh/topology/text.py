"""Read the text of a file that a person wrote, with any editor."""

import codecs
import os
import stat
from pathlib import Path

_LARGEST = 32 * 2**20  # bytes

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""Byte-order marks, which the editors and spreadsheets of Windows write first."""


class Unreadable(Exception):
    """A file gives nothing at all.

    Attributes:
        problem: what is wrong.
        remedy: what to do.
        line: where, from 1.
    """

    def __init__(self, problem: str, remedy: str, line: int = 1):
        self.problem, self.remedy, self.line = problem, remedy, line
        super().__init__(f"{problem}; {remedy}")


def read(path: Path, name: str) -> str:
    """The text of a file, without a byte-order mark and with line feeds alone between its lines.

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        Unreadable: there is no such file, or it is no text, or too large.
    """
    try:
        if not _is_file(path):
            raise Unreadable(f"{name} is a folder or a device", "name a file of text")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise Unreadable(f"{name} cannot be read: {error.strerror}", "check the path") from None
    except ValueError as error:  # a path with a NUL
        raise Unreadable(f"{name} cannot be read: {error}", "check the path") from None
    if len(content) > _LARGEST:
        raise Unreadable(f"{name} is larger than {_LARGEST >> 20} MiB", "check the path")
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    try:
        text = content.removeprefix(mark).decode(_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"{name} is not UTF-8 text", "save it as UTF-8", content.count(b"\n", 0, error.start) + 1
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise Unreadable(f"{name} is not UTF-8 text, for it holds a NUL", "save it as UTF-8", line)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def inside(folder: Path, name: str) -> Path:
    """The file that a topology file in ``folder`` names, links followed.

    Somebody else may have written the topology file: it reaches nothing but what lies in its own folder.

    Raises:
        Unreadable: the file lies elsewhere.
    """
    try:
        home, path = (Path(os.path.realpath(place)) for place in (folder, folder / name))
    except ValueError as error:  # a path with a NUL
        raise Unreadable(f"{name} cannot be read: {error}", "check the path") from None
    if not path.is_relative_to(home):
        raise Unreadable(
            f"{folder / name} leads to {path}, outside of the topology file's folder",
            f"copy the file into {home}, and name the copy",
        )
    return path


def _is_file(path: Path) -> bool:
    mode = path.stat().st_mode
    # a pipe without a name is what a shell makes of <(command); a named pipe might have no writer
    return stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and not path.resolve().exists())
