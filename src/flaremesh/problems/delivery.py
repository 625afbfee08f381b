"""How a problem gets from a topology file to a site; the simulator takes the same way.

A job's app has ``config/problem.yaml``, which names the class and its arguments. Where the class stands in a
file of the user's, ``custom/`` holds that file and the Python files beside it that it imports; NVFlare
refuses such a job where the site's kit lets nobody bring code along.

The arguments are no part of NVFlare's own configuration: that knows JSON's types only, replaces what stands
in braces, and takes a mapping with a ``name`` or a ``path`` for a component.
"""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import yaml

from flaremesh.class_path import ClassPathError, class_at, exit_refused, package_of
from flaremesh.errors import FlaremeshError
from flaremesh.problems.protocol import Problem, SiteContext
from flaremesh.problems.reference import build_problem
from flaremesh.problems.sources import SourceError, sources
from flaremesh.topology.schema import ProblemReference

_DESCRIPTION = Path("config/problem.yaml")
_CODE = Path("custom")


class DeliveryError(FlaremeshError):
    """A problem cannot travel to the sites, or did not arrive there; the message says why."""

    exit_code = 2


def deliver(reference: ProblemReference, app: Path) -> None:
    """Put all that a site needs to build the problem into the folder of a job's app.

    Raises:
        DeliveryError: an argument is of a type that cannot travel, or a file is a link out of the folder.
    """
    where = {"path": reference.path} if reference.file is None else {"file": reference.file.name}
    description = where | {"name": reference.name, "args": reference.args}
    try:
        text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True)
    except yaml.representer.RepresenterError as error:
        raise DeliveryError(
            f"run.problem.args: {error.args[-1]!r} cannot travel to the sites; "
            "give numbers, texts, dates, and lists and mappings of them"
        ) from None
    (app / _DESCRIPTION).parent.mkdir(parents=True, exist_ok=True)
    (app / _DESCRIPTION).write_text(text, encoding="utf-8")
    if reference.file is not None:
        try:
            travelling = sources(reference.file)
        except SourceError as error:
            raise DeliveryError(str(error)) from None
        for source in travelling:
            target = app / _CODE / source.relative_to(reference.file.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


@dataclass(frozen=True)
class DeliveredProblem:
    """A problem as it has arrived at a site.

    Attributes:
        app: folder of the job's app.
        path: of an installed class, None where ``file`` holds it.
        file: name of a file in the app's ``custom``.
        name: of what makes the problem in that file: a class, or a function that returns a problem.
        args: keyword arguments.
    """

    app: Path
    path: str | None
    file: str | None
    name: str | None
    args: Mapping[str, Any]

    @classmethod
    def of(cls, app: Path) -> Self:
        """The problem of an app.

        Raises:
            DeliveryError: it has none, or what it says of its problem is no description of one.
        """
        try:
            description = yaml.safe_load((app / _DESCRIPTION).read_text(encoding="utf-8"))
            arrived = ProblemReference.model_validate(
                {name: value for name, value in description.items() if value is not None}
            )
        except FileNotFoundError:
            raise DeliveryError("the job names no problem") from None
        except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise DeliveryError(f"{_DESCRIPTION} of the job describes no problem: {error}") from None
        file = None if arrived.file is None else str(arrived.file)
        if file is not None and (Path(file).name != file or not file.endswith(".py")):
            raise DeliveryError(f"{file!r} is no name of a Python file in the job's {_CODE}")
        return cls(app, arrived.path, file, arrived.name, arrived.args)

    @property
    def title(self) -> str:
        """The class, for messages."""
        return self.path or f"{Path(self.file or '').stem}.{self.name}"

    def build(self, site: SiteContext) -> Problem:
        """The problem of a site.

        Raises:
            ProblemError: a sentence naming the class, the site and the cause.
        """
        return self.builder()(site)

    def builder(self) -> Callable[[SiteContext], Problem]:
        """Builds the problem of any site; a file of the user's is executed once, at the first."""
        modules: list[ModuleType] = []

        def find() -> Callable[..., Problem]:
            if self.file is None:
                return class_at(self.path or "")
            if not modules:
                modules.append(_executed(self.app / _CODE, self.file))
            found: Callable[..., Problem] | None = getattr(modules[0], self.name or "", None)
            if not callable(found):
                raise ClassPathError(f"{self.file} has no class {self.name}")
            return found

        return lambda site: build_problem(self.title, find, site, self.args)


@contextmanager
def delivered(reference: ProblemReference) -> Iterator[Callable[[SiteContext], Problem]]:
    """Builds the problem of a site as a run does, from a copy of what would travel there.

    Raises:
        DeliveryError: the problem cannot travel to the sites.
    """
    before = sys.path.copy()
    with tempfile.TemporaryDirectory(prefix="flaremesh-") as folder:
        deliver(reference, Path(folder))
        try:
            yield DeliveredProblem.of(Path(folder)).builder()
        finally:
            sys.path[:] = before


def _executed(folder: Path, file: str) -> ModuleType:
    """The module in a file of ``folder``, also where another module has the same name."""
    if not (folder / file).is_file():
        raise ClassPathError(f"{file} did not arrive with the job")
    name = Path(file).stem
    _prefer(folder, {path.stem for path in folder.iterdir()} - {name})
    if name in sys.modules or not name.isidentifier():
        name = f"{name} of this run"
    spec = importlib.util.spec_from_file_location(name, folder / file)
    assert spec is not None and spec.loader is not None, "its name ends with .py"  # noqa: PT018  # one fact
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as for any import: classes are pickled by their module's name
    try:
        with exit_refused():
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _prefer(folder: Path, modules: set[str]) -> None:
    """Import from ``folder`` first; its ``modules`` also if they were imported from elsewhere before."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if package_of(name) in modules and not (file and Path(file).is_relative_to(folder)):
            del sys.modules[name]
