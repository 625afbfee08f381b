"""Build the problem that a topology file or a job names."""

from collections.abc import Callable, Mapping
from typing import Any

from flaremesh.class_path import class_at, exit_refused
from flaremesh.problems.protocol import Problem, ProblemError, SiteContext

_METHODS = ("initial", "loss_and_gradient", "evaluate", "buffers", "state")
_TOGETHER = ("snapshot", "restore")


def load_problem(path: str, site: SiteContext, args: Mapping[str, Any]) -> Problem:
    """Import the class at the dotted ``path`` and build it as ``Class(site, **args)``.

    Raises:
        ProblemError: a sentence naming the class, the site and the cause.
    """
    return build_problem(path, lambda: class_at(path), site, args)


def build_problem(
    name: str, find: Callable[[], Callable[..., Problem]], site: SiteContext, args: Mapping[str, Any]
) -> Problem:
    """Find what makes the problem, and let it make one for a site.

    Args:
        name: of the class, for messages.
        find: returns the class, or raises what importing its module raises.
        site: the site to which the problem belongs.
        args: keyword arguments.

    Raises:
        ProblemError: a sentence naming the class, the site and the cause.
    """
    try:
        make = find()
    except Exception as error:
        raise ProblemError(f"cannot import the problem {name} at {site.name}", error) from error
    try:
        with exit_refused():
            problem = make(site, **args)
    except Exception as error:
        raise ProblemError(f"cannot build the problem {name} at {site.name}", error) from error
    has = {method for method in (*_METHODS, *_TOGETHER) if callable(getattr(problem, method, None))}
    needed = _METHODS if has.isdisjoint(_TOGETHER) else (*_METHODS, *_TOGETHER)
    if missing := [method for method in needed if method not in has]:
        raise ProblemError(
            f"{name} is no problem: it has no {', '.join(missing)}; see flaremesh.problems.protocol.Problem"
        )
    return problem
