"""Build the problem that a topology file names."""

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.topology.schema import ProblemReference


def load_problem(reference: ProblemReference, site: SiteContext, folder: Path = Path()) -> Problem:
    """Import the class and build it as ``Class(site, **args)``.

    Args:
        reference: where the class is; a relative ``file`` is looked up in ``folder``.
        site: the class's first argument.
        folder: where the topology file is.

    Raises:
        ProblemError: a sentence naming the class, the site and the cause.
    """
    if reference.file is not None:
        source, name = str(reference.file), reference.name
    else:
        source, _, name = (reference.path or "").rpartition(".")
    if not source or not name:
        raise ProblemError(f"the problem {source or name!r} names no class; write package.module.Class")
    try:
        module = (
            _from_file(folder / source) if reference.file is not None else importlib.import_module(source)
        )
        problem_class = getattr(module, name)
    except Exception as error:
        raise ProblemError(f"cannot import the problem {name} from {source} at {site.name}", error) from error
    try:
        problem: Problem = problem_class(site, **reference.args)
    except Exception as error:
        raise ProblemError(f"cannot build the problem {name} at {site.name}", error) from error
    return problem


@cache
def _from_file(path: Path) -> ModuleType:
    name = f"flaremesh_problem_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look classes up here
    spec.loader.exec_module(module)
    return module
