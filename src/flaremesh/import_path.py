"""Whether modules are imported from folders that somebody may have mailed: only to execute what is there.

Python puts the current folder on the path itself (``python -m``), and so may the user (``PYTHONPATH``). A
mailed folder may hold modules named like libraries; a command that only looks at it must import none.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

_left_out: list[str] = []  # entries of sys.path, for as long as the command only looks
_OWN = Path(__file__).resolve().parents[1]  # flaremesh itself, wherever it lies


def leave_out(*folders: Path) -> None:
    """Import nothing from the folders any more, until `admit`."""
    resolved = {folder.resolve() for folder in folders} - {_OWN}
    entries = [entry for entry in sys.path if Path(entry).resolve() in resolved]
    _left_out.extend(entries)
    sys.path[:] = [entry for entry in sys.path if entry not in entries]


def admit() -> None:
    """Import from the folders again that were left out; what is installed comes first."""
    sys.path.extend(_left_out)
    _left_out.clear()


@contextmanager
def restored() -> Iterator[None]:
    """After the block, modules are imported from where they were before it."""
    path, left_out = sys.path.copy(), _left_out.copy()
    try:
        yield
    finally:
        sys.path[:], _left_out[:] = path, left_out


def left_out(package: str) -> Path | None:
    """Where a package lies, if an import would find it in a folder that is left out and nowhere else."""
    return None if _found(package, sys.path) else _found(package, _left_out)


def found_in(package: str, *folders: Path) -> Path | None:
    """Where a package lies, if an import finds it in one of the folders: a file, or the package's folder."""
    resolved = {folder.resolve() for folder in folders} - {_OWN}
    place = _found(package, sys.path)
    return place if place is not None and place.parent in resolved else None


def _found(package: str, path: list[str]) -> Path | None:
    if not package.isidentifier():
        return None
    spec = PathFinder.find_spec(package, path)
    if spec is None:
        return None
    for place in spec.submodule_search_locations or [spec.origin or ""]:
        return Path(place).resolve()
    return None
