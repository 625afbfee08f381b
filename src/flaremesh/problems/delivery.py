"""A problem as it has arrived at a site; the simulator takes the same way, from a topology file to it."""

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Self

import yaml
from pydantic import TypeAdapter
from torch.nn import Module

from flaremesh.class_path import ClassPathError, class_at, exit_refused, package_of
from flaremesh.problems.parcel import CODE, DESCRIPTION, DeliveryError, deliver
from flaremesh.problems.protocol import Problem, SiteContext
from flaremesh.problems.reference import build_problem
from flaremesh.problems.script import ScriptProblem
from flaremesh.topology.schema import AnyProblem, ScriptReference

_DESCRIBED: Final[TypeAdapter[Any]] = TypeAdapter(AnyProblem)


@dataclass(frozen=True)
class DeliveredProblem:
    """A problem as it has arrived at a site.

    Attributes:
        app: folder of the job's app.
        said: the problem as the job describes it; files are names of files in the app's ``custom``.
    """

    app: Path
    said: AnyProblem

    @classmethod
    def of(cls, app: Path) -> Self:
        """The problem of an app.

        Raises:
            DeliveryError: it has none, or what it says of its problem is no description of one.
        """
        try:
            description = yaml.safe_load((app / DESCRIPTION).read_text(encoding="utf-8"))
            said: AnyProblem = _DESCRIBED.validate_python(
                {name: value for name, value in description.items() if value is not None}
            )
        except FileNotFoundError:
            raise DeliveryError("the job names no problem") from None
        except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise DeliveryError(f"{DESCRIPTION} of the job describes no problem: {error}") from None
        file = None if said.file is None else str(said.file)
        if file is not None and (Path(file).name != file or not file.endswith(".py")):
            raise DeliveryError(f"{file!r} is no name of a Python file in the job's {CODE}")
        return cls(app, said)

    @property
    def path(self) -> str | None:
        """The installed class that it names: its own, or its model's; None where the job brings it."""
        if not isinstance(self.said, ScriptReference):
            return self.said.path
        return None if self._brings(self.said.model) else self.said.model

    def build(self, site: SiteContext) -> Problem:
        """The problem of a site.

        Raises:
            ProblemError: a sentence naming the class, the site and the cause.
        """
        return self.builder()(site)

    def builder(self) -> Callable[[SiteContext], Problem]:
        """Builds the problem of any site; a file of the user's is executed once, at the first."""
        said = self.said
        if isinstance(said, ScriptReference):
            return self._script_builder(said)
        title = said.path or f"{Path(said.file or '').stem}.{said.name}"
        modules: list[ModuleType] = []

        def find() -> Callable[..., Problem]:
            if said.file is None:
                return class_at(said.path or "")
            if not modules:
                modules.append(_executed(self.app / CODE, str(said.file)))
            found: Callable[..., Problem] | None = getattr(modules[0], said.name or "", None)
            if not callable(found):
                raise ClassPathError(f"{said.file} has no class {said.name}")
            return found

        return lambda site: build_problem(title, find, site, said.args)

    def _script_builder(self, said: ScriptReference) -> Callable[[SiteContext], Problem]:
        folder = self.app / CODE
        models: list[type[Module]] = []

        def find() -> Callable[..., Problem]:
            if not (folder / said.script).is_file():
                raise ClassPathError(f"{said.script} did not arrive with the job")
            if not models:
                if self._brings(said.model):
                    _prefer(folder, {path.stem for path in folder.iterdir()})
                models.append(class_at(said.model))
            return partial(ScriptProblem, model=models[0], said=said, folder=folder)

        return lambda site: build_problem(str(said.script), find, site, {})

    def _brings(self, path: str) -> bool:
        module = self.app / CODE / package_of(path)
        return module.is_dir() or module.with_suffix(".py").is_file()


@contextmanager
def delivered(reference: AnyProblem) -> Iterator[Callable[[SiteContext], Problem]]:
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
