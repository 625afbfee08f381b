"""Slots: the few places that run processes of one site take turns in.

Each process leaves its metrics in a file. Named by process or run, files and series would grow in number with
every run; named by slot they are used again.
"""

import fcntl
import os
from itertools import count
from pathlib import Path


def claim(directory: Path) -> int:
    """Take the lowest free slot for the life of this process."""
    for slot in count():
        # never closed: the lock must last until the process ends, however it ends
        lock = os.open(_lock_file(directory, slot), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return slot
    raise AssertionError("unreachable")


def is_held(directory: Path, slot: int) -> bool:
    """Whether a living process holds the slot."""
    try:
        lock = os.open(_lock_file(directory, slot), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def clear(directory: Path) -> None:
    """Make the directory for a site that starts, without pages and locks of earlier runs."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("slot-*"):
        file.unlink()


def _lock_file(directory: Path, slot: int) -> Path:
    return directory / f"slot-{slot}.lock"
