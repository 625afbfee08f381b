"""Checkpoints of a run that go to the one that continues it with other sites.

They were written by a process that ran the submitter's code, so what lies there may be anything: a link to a
key, or a pipe.
"""

import os
import re
import shutil
import stat
from pathlib import Path
from typing import Final

from flaremesh.p2p.gate.request import Refused
from flaremesh.p2p.store import CHECKPOINTS, STORES

_NAMES: Final = re.compile(r"\d{1,10}\.(json|safetensors)|history\.jsonl", re.ASCII)
_MOST_FILES = 16  # those of two checkpoints, and what a write that was cut off has left


def carry(workspace: Path, source: str, target: str) -> None:
    """Copy the checkpoints of one store of a workspace into another that has none.

    Args:
        workspace: of the site.
        source, target: names of the stores.

    Raises:
        Refused: there lies something else, or they cannot be copied.
    """
    there, here = (workspace / STORES / store / CHECKPOINTS for store in (source, target))
    if here.exists() or not there.exists():
        return
    partial = here.with_name(f"{CHECKPOINTS}.partial")
    try:
        for folder in (here.parent.parent, here.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        descriptor = os.open(there, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            names = [entry.name for entry in os.scandir(descriptor) if _NAMES.fullmatch(entry.name)]
            for name in names[:_MOST_FILES]:
                _copy(descriptor, name, partial / name)
        finally:
            os.close(descriptor)
        partial.rename(here)
    except OSError as error:
        raise Refused(
            f"the checkpoints of the run that this one continues cannot be taken over: {error.strerror}"
        ) from error


def _copy(folder: int, name: str, target: Path) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, f"{name} is no file")
        with target.open("xb") as copy:
            shutil.copyfileobj(file, copy)
