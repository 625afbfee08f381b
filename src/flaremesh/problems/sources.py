"""The Python files of the user's own that a run executes: a problem's, and what it imports from beside it."""

import ast
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from flaremesh import import_path
from flaremesh.class_path import package_of
from flaremesh.errors import FlaremeshError
from flaremesh.topology.schema import ProblemReference, ScriptReference, Topology

MOST_FILES: Final = 1000
MOST_BYTES: Final = 8 * 2**20
"""Of all files that travel with a problem, together."""


class SourceError(FlaremeshError):
    """A problem's files cannot travel; the message names the file and says what to do."""

    exit_code = 2


def sources(file: Path, *modules: str) -> list[Path]:
    """A Python file, and of the files beside it those that it imports, and that these import.

    Args:
        file: the file.
        modules: names of further modules that go with it if they lie beside it.

    Raises:
        SourceError: one of them is a link out of the folder, or they are too many or too large.
    """
    found: dict[Path, None] = {}
    waiting = [file, *_beside(file.parent, modules)]
    size = 0
    while waiting:
        source = waiting.pop()
        if source in found:
            continue
        found[source] = None
        size += _inside(source, file.parent).stat().st_size
        if len(found) > MOST_FILES or size > MOST_BYTES:
            raise SourceError(
                f"{file} and what it imports from beside it are more than {MOST_FILES} files or "
                f"{MOST_BYTES >> 20} MiB; "
                "install it as a package at every site, and write code: {packages: [its name]}"
            )
        waiting += _imported_by(source, file.parent)
    return list(found)


def of_problem(problem: ProblemReference | ScriptReference) -> list[Path]:
    """The files that travel with a problem; raises SourceError as `sources` does."""
    if problem.file is None:
        return []
    model = [problem.model] if isinstance(problem, ScriptReference) else []
    return sources(problem.file, *model)


def executed(topology: Topology, folder: Path) -> list[Path]:
    """The files that lie in the user's folders, and that executing a topology's run may execute.

    Args:
        topology: with the run.
        folder: the topology file's. Packages that are found there, or in the current folder, count too.

    Raises:
        SourceError: as `sources` does.
    """
    run = topology.run
    files = of_problem(run.problem)
    named = run.problem.model if isinstance(run.problem, ScriptReference) else run.problem.path
    paths = [run.algorithm, named or "", *topology.code.packages]
    for package in dict.fromkeys(package_of(path) for path in paths):
        if place := import_path.found_in(package, Path.cwd(), folder):
            files += [place] if place.is_file() else sorted(islice(_python_files(place), MOST_FILES))
    return files


def _inside(source: Path, folder: Path) -> Path:
    if not (target := source.resolve()).is_relative_to(folder.resolve()):
        raise SourceError(f"{source} is a link to {target}, outside of {folder}; copy the file there")
    return target


def _imported_by(file: Path, folder: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # importing it at the site names the error
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                modules = [module]
            case _:
                continue
        yield from _beside(folder, modules)


def _beside(folder: Path, modules: Iterable[str]) -> Iterator[Path]:
    for top in {package_of(module) for module in modules} - sys.stdlib_module_names:
        if (folder / f"{top}.py").is_file():
            yield folder / f"{top}.py"
        elif (folder / top).is_dir():
            _inside(folder / top, folder)
            yield from sorted(islice(_python_files(folder / top), MOST_FILES + 1))


def _python_files(folder: Path) -> Iterator[Path]:
    """Those below a folder; links to other folders are not followed."""
    return (path for path in folder.rglob("*.py") if path.is_file())
