"""Classes that files and jobs name by a dotted path, and whose packages a kit allows."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flaremesh.errors import FlaremeshError


class ClassPathError(FlaremeshError):
    """A dotted path leads to no class that may be used; the message names the path and the cause."""


def class_at(path: str) -> type[Any]:
    """The class at ``package.module.Class``, which that module defines.

    A name that a module has merely imported is refused: a kit that allows a package does not allow what the
    package imports, and who reads a module has not read the others.

    Raises:
        ClassPathError: there is no such class, or importing its module ended the process.
        Exception: whatever else importing the module raises.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name or not name:
        raise ClassPathError(f"{path!r} names no class: write package.module.Class")
    with exit_refused():
        module = importlib.import_module(module_name)
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise ClassPathError(f"{module_name} has no class {name}")
    if found.__module__ != module_name:
        raise ClassPathError(
            f"{path} is the class {found.__module__}.{found.__qualname__} of another module: name that path"
        )
    return found


def package_of(path: str) -> str:
    """The package in which a dotted path begins, as in ``package.module.Class``."""
    return path.partition(".")[0]


def prefix_of(package: str) -> str:
    """Prefix of the dotted paths of all that is in a package."""
    return f"{package}."


@contextmanager
def exit_refused() -> Iterator[None]:
    """Raise ClassPathError if the code in the block exits, as by ``sys.exit``."""
    try:
        yield
    except SystemExit as asked:
        raise ClassPathError(ended(asked)) from asked


def ended(asked: SystemExit) -> str:
    """The message about code that exits when it is imported or called."""
    code = "" if asked.code is None else asked.code
    return (
        f"it called sys.exit({code}); code that flaremesh calls must neither end the process "
        "nor read the command line, which is not its own"
    )
