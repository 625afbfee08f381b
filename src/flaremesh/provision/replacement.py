"""Replaces files and folders in one step each: a reader finds the old one or the new one, never half of it.

Other files beside the entries that are replaced stay.
"""

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flaremesh import atomic

_PLACE = ".provision"
_RETIRED = "retired"


@contextmanager
def workplace(out: Path, *folders: str) -> Iterator[Path]:
    """A private scratch folder in ``out``, on the file system of what it will replace; removed at the end.

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
    """Put ``new`` in the place of ``old`` unless content and mode are the same.

    The new content outlasts a power cut, since no kit can be made without the root's key.

    Args:
        new: a file on the same file system; moved.
        old: the place; may be missing.
        mode: permissions that the file is to have.
    """
    if not old.exists() or old.read_bytes() != new.read_bytes() or _mode(old) != mode:
        new.chmod(mode)
        atomic.move(new, old, durable=True)


def replace_text(text: str, old: Path, work: Path, *, mode: int) -> None:
    """Put a text in the place of the file ``old`` unless that is what it holds.

    Args:
        text: what the file is to hold.
        old: the place; may be missing.
        work: scratch folder, made by `workplace`.
        mode: permissions that the file is to have.
    """
    new = work / old.name
    new.write_text(text)
    replace_file(new, old, mode=mode)


def replace_folder(new: Path, old: Path, work: Path, whole: Collection[str] = ()) -> bool:
    """Bring the folder ``old`` up to date with ``new``, each entry in one step; says whether it had to.

    What ``new`` does not hold stays as it is.

    Args:
        new: what is to be there; its entries are moved.
        old: the folder; may be missing.
        work: scratch folder, made by `workplace`.
        whole: entries in which nothing else may stay.
    """
    if not old.is_dir():
        _set_aside(old, work)
        new.rename(old)
        return True
    changed = [
        path for path in sorted(new.iterdir()) if not _holds(old / path.name, path, path.name in whole)
    ]
    for path in changed:
        if path.is_dir() and path.name not in whole:
            _carry_over(old / path.name, path)
        _set_aside(old / path.name, work)
        path.rename(old / path.name)
    return bool(changed)


def remove_entries(folder: Path, names: Iterable[str], work: Path) -> bool:
    """Remove entries of a folder, then what is empty: folders in it, and itself; says whether it stays.

    Args:
        folder: may be missing.
        names: of entries that may be missing too.
        work: scratch folder, made by `workplace`.
    """
    for name in names:
        _move(folder / name, work.parent, work / "removed")
    for place in (*folder.glob("*/"), folder):
        with suppress(OSError):  # it is not empty
            place.rmdir()
    return folder.exists()


def _set_aside(path: Path, work: Path) -> None:
    _move(path, work.parent, work / _RETIRED)


def _move(path: Path, out: Path, place: Path) -> None:
    """Move what is at ``path``, if anything is, to the same place in another folder."""
    if path.exists():
        moved = place / path.relative_to(out)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)


def _carry_over(old: Path, new: Path) -> None:
    """Copy into ``new`` what only ``old`` has."""
    for path in old.iterdir() if old.is_dir() else ():
        place = new / path.name
        if place.is_dir() and path.is_dir():
            _carry_over(path, place)
        elif not place.exists():
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, place, symlinks=True)
            else:
                shutil.copy2(path, place, follow_symlinks=False)


def _clear(work: Path, folders: Iterable[str]) -> None:
    # replace_folder sets the old entry aside, then moves the new one in: where a process ended between the
    # two, the old one is put back
    retired = work / _RETIRED
    for folder in (found for pattern in folders for found in retired.glob(pattern)):
        place = work.parent / folder.relative_to(retired)
        if not place.exists():
            folder.rename(place)
    shutil.rmtree(work, ignore_errors=True)


def _holds(old: Path, new: Path, exactly: bool) -> bool:
    """Whether ``old`` has all that is in ``new``, unchanged, and with ``exactly`` nothing else."""
    if not old.exists() or old.is_dir() != new.is_dir() or _mode(old) != _mode(new):
        return False
    if not new.is_dir():
        return old.read_bytes() == new.read_bytes()
    entries = {path.name for path in new.iterdir()}
    if exactly and entries != {path.name for path in old.iterdir()}:
        return False
    return all(_holds(old / name, new / name, exactly) for name in entries)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
