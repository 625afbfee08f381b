"""Build the problem that a topology file names."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.topology.schema import ProblemReference


def class_path(reference: ProblemReference) -> str:
    """The dotted path of the problem's class; a ``file``'s folder has to be on the import path."""
    return reference.path or f"{reference.file.stem if reference.file else ''}.{reference.name}"


@contextmanager
def importable(reference: ProblemReference) -> Iterator[None]:
    """Put the folder of a problem's ``file``, if it is one, on the import path for the while."""
    if reference.file is None:
        yield
        return
    folder = str(reference.file.parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def load_problem(path: str, site: SiteContext, args: Mapping[str, Any]) -> Problem:
    """Import the class at the dotted ``path`` and build it as ``Class(site, **args)``.

    Raises:
        ProblemError: a sentence naming the class, the site and the cause.
    """
    module_name, _, class_name = path.rpartition(".")
    if not module_name or not class_name:
        raise ProblemError(f"{path!r} names no problem class; write package.module.Class")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ProblemError(f"cannot import the problem {path} at {site.name}", error) from error
    problem_class = getattr(module, class_name, None)
    if not callable(problem_class):
        raise ProblemError(
            f"cannot load the problem {path} at {site.name}: {module_name} has no class {class_name}"
        )
    try:
        problem: Problem = problem_class(site, **args)
    except Exception as error:
        raise ProblemError(f"cannot build the problem {path} at {site.name}", error) from error
    return problem
