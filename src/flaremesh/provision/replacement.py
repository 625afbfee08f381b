"""Replacing files and folders in one step, so that nobody finds half of one."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PLACE = ".provision"
_RETIRED = "retired"


@contextmanager
def workplace(out: Path, *folders: str) -> Iterator[Path]:
    """A private scratch folder in ``out``, on one file system with what it will replace; gone at the end.

    Args:
        out: where it is.
        folders: patterns, relative to ``out``, of the folders that may be replaced.
    """
    work = out / _PLACE
    _clear(work, folders)
    (work / _RETIRED).mkdir(mode=0o700, parents=True)
    work.chmod(0o700)
    try:
        yield work
    finally:
        _clear(work, folders)


def replace_file(new: Path, old: Path, *, mode: int) -> None:
    """Put ``new`` in the place of ``old`` unless they are alike."""
    if not old.exists() or old.read_bytes() != new.read_bytes() or _mode(old) != mode:
        new.chmod(mode)
        new.replace(old)


def replace_text(text: str, old: Path, work: Path, *, mode: int) -> None:
    """Put a text in the place of the file ``old`` unless that is what it holds."""
    new = work / old.name
    new.write_text(text)
    replace_file(new, old, mode=mode)


def replace_folder(new: Path, old: Path, work: Path) -> bool:
    """Put ``new`` in the place of ``old`` unless they are alike; says whether it did."""
    if old.exists() and _content(new) == _content(old):
        return False
    if old.exists():
        retired = work / _RETIRED / old.relative_to(work.parent)
        retired.parent.mkdir(exist_ok=True)
        old.rename(retired)
    new.rename(old)
    return True


def _clear(work: Path, folders: Iterable[str]) -> None:
    # a folder is missing from its place only if a run ended between the two renames of replace_folder
    retired = work / _RETIRED
    for folder in (found for pattern in folders for found in retired.glob(pattern)):
        place = work.parent / folder.relative_to(retired)
        if not place.exists():
            folder.rename(place)
    shutil.rmtree(work, ignore_errors=True)


def _content(folder: Path) -> dict[Path, tuple[int, bytes | None]]:
    return {
        path.relative_to(folder): (_mode(path), path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
