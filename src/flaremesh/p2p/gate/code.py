"""What a job may name: classes of flaremesh, of packages that the kit lists, and of files that it brings.

All of it is decided by names and by source text. Nothing is imported but what flaremesh itself is made of.
"""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

from flaremesh import algorithms
from flaremesh.class_path import package_of, prefix_of
from flaremesh.p2p.charter import Code
from flaremesh.p2p.components import ALGORITHMS, COMPONENTS, PROBLEMS
from flaremesh.p2p.gate.request import Refused, quoted

FOLDER: Final = "custom"
"""The folder of an app whose files NVFlare lets a job import."""

_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


class JobCode:
    """The code of one job.

    Args:
        allowed: what the kit allows.
        files: SHA-256 of the app's files, by their paths.
        workspace: of the site; nothing in it is an installed package.

    Attributes:
        used: SHA-256 of each file of code, and of each module of an installed package that was named.

    Raises:
        Refused: the job brings code that the kit does not allow.
    """

    def __init__(self, allowed: Code, files: Mapping[str, str], workspace: Path):
        self._allowed = allowed
        self._workspace = workspace.resolve()
        self.used = {path: digest for path, digest in files.items() if path.startswith(f"{FOLDER}/")}
        if self.used and not allowed.files:
            raise Refused(
                "the kit here accepts no code of a job, and this one brings some. Deploy the sites anew with "
                "kits of a topology file that says `code: {files: true}`, or run a class of a package that "
                "is installed at all sites"
            )
        for path, digest in self.used.items():
            self._require_read(quoted(path.replace("/", ".")), digest)

    def check_class(self, path: str) -> None:
        """Check a class that a job names as a component or as its problem.

        Raises:
            Refused: it may not.
        """
        if path not in COMPONENTS and path not in PROBLEMS:
            self._check_foreign(path)

    def check_algorithm(self, name: str) -> None:
        """Check the algorithm that a job names, registered or a class.

        Raises:
            Refused: it may not.
        """
        if name not in ALGORITHMS and name not in algorithms.names():
            self._check_foreign(name)

    def check_file(self, name: str) -> None:
        """Check a file of the job that holds its problem.

        Raises:
            Refused: the job does not bring it.
        """
        if f"{FOLDER}/{name}" not in self.used:
            raise Refused(
                f"the problem's file {quoted(name)} did not arrive with the job in {FOLDER}/, the only place "
                "where code is looked for"
            )

    def _check_foreign(self, path: str) -> None:
        if not _CLASS_PATH.fullmatch(path):
            raise Refused(f"the job names {quoted(path)} where a class belongs: package.module.Class")
        module, _, name = path.rpartition(".")
        if self._brings(module):
            return
        if not any(path.startswith(prefix_of(package)) for package in self._allowed.packages):
            raise Refused(
                f"the kit does not allow {quoted(path)}: list its package under `code: {{packages: [...]}}` "
                "in the topology file, provision again and update the site"
            )
        source = self._source(module)
        if name not in _classes(_parsed(source, module)):
            raise Refused(
                f"{quoted(module)} defines no class {quoted(name)}: name the module that does, and no "
                "function or name that it imports"
            )
        self.used[module] = hashlib.sha256(source).hexdigest()
        self._require_read(module, self.used[module])

    def _brings(self, module: str) -> bool:
        file = f"{FOLDER}/{module.replace('.', '/')}"
        return f"{file}.py" in self.used or f"{file}/__init__.py" in self.used

    def _require_read(self, what: str, digest: str) -> None:
        if self._allowed.sha256 and digest not in self._allowed.sha256:
            raise Refused(
                f"the kit lists the code that somebody has read, and not that of {what}: add its SHA-256 "
                f"{digest} under `code: {{sha256: [...]}}` in the topology file, and provision again"
            )

    def _source(self, module: str) -> bytes:
        spec = _spec(module)
        origin = spec and spec.origin
        if not origin or not origin.endswith(".py"):
            raise Refused(f"{quoted(module)} is not installed here as Python source")
        if Path(origin).resolve().is_relative_to(self._workspace):
            raise Refused(f"{quoted(module)} lies in the site's workspace, from which nothing is imported")
        return Path(origin).read_bytes()


def _spec(module: str) -> ModuleSpec | None:
    """Where a module is, without importing the packages that it is in, as importlib would."""
    top = package_of(module)
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # what is loaded under this name has no place
        return None
    name = top
    for part in module.split(".")[1:]:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec


def _parsed(source: bytes, module: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        raise Refused(f"{quoted(module)} is no Python source") from None


def _classes(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Names of the classes that a module's own statements define."""
    for statement in body:
        match statement:
            case ast.ClassDef(name=name):
                yield name
            case ast.If(body=then, orelse=other) | ast.Try(body=then, orelse=other):
                yield from _classes([*then, *other])
