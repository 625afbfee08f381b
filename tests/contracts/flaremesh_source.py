"""Where flaremesh's source touches NVFlare."""

import ast
import functools
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import flaremesh
from flaremesh.p2p import nvflare as adapter

SOURCE = Path(flaremesh.__file__).parent
ADAPTER = Path(adapter.__file__).parent


class Import(NamedTuple):
    """``from module import name``, or ``import module`` where there is no name."""

    module: str
    name: str
    file: str


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """All of flaremesh's source."""
    return {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def in_adapter(path: Path) -> bool:
    return ADAPTER in path.parents


def shown(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def imports(*, outside: bool = False) -> list[Import]:
    """What flaremesh imports of NVFlare; ``outside``: what its modules outside of the adapter do."""
    return [
        Import(module, name, shown(path))
        for path, tree in trees().items()
        if not (outside and in_adapter(path))
        for node in ast.walk(tree)
        for module, name in _imported(node)
        if module.split(".")[0] == "nvflare"
    ]


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.ImportFrom):
        yield from ((node.module or "", alias.name) for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)


def members(*, outside: bool = False) -> list[str]:
    """Dotted paths of what flaremesh, or its modules outside of the adapter, read of what they import."""
    found = set()
    for path, tree in trees().items():
        if outside and in_adapter(path):
            continue
        names = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nvflare"
            for alias in node.names
        }
        found |= {
            f"{names[node.value.id]}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names
        }
    return sorted(found)


def attributes_outside() -> dict[str, list[str]]:
    """The attributes that p2p's modules outside of the adapter use, and where."""
    found: dict[str, list[str]] = {}
    for path, tree in trees().items():
        if SOURCE / "p2p" in path.parents and not in_adapter(path):
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute):
                    found.setdefault(node.attr, []).append(f"{shown(path)}:{node.lineno}")
    return found


def texts_outside() -> dict[str, list[str]]:
    """The texts in flaremesh's modules outside of the adapter, and where."""
    found: dict[str, list[str]] = {}
    for path, tree in trees().items():
        if not in_adapter(path):
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.setdefault(node.value, []).append(f"{shown(path)}:{node.lineno}")
    return found


def defined_outside() -> set[str]:
    """Names of the functions, methods, classes and attributes that flaremesh itself defines there."""
    found = set()
    for path, tree in trees().items():
        if not in_adapter(path):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    found.add(node.name)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found.add(node.target.id)
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    found.add(node.attr)
    return found


def inherited() -> dict[str, str]:
    """What flaremesh's classes override or call of NVFlare's that they inherit from, and one that does."""
    found = {}
    for component in _components():
        theirs = [base for base in component.__mro__ if base.__module__.startswith("nvflare.")]
        for name in sorted(_used_of_itself(component)):
            owner = next((base for base in theirs if inspect.isfunction(vars(base).get(name))), None)
            if owner is not None:
                found[f"{owner.__module__}.{owner.__qualname__}.{name}"] = component.__name__
    return found


def _components() -> Iterator[type]:
    for module in pkgutil.walk_packages([str(SOURCE / "p2p")], "flaremesh.p2p."):
        for kind in vars(importlib.import_module(module.name)).values():
            if (
                isinstance(kind, type)
                and kind.__module__ == module.name
                and any(base.__module__.startswith("nvflare.") for base in kind.__mro__)
            ):
                yield kind


def _used_of_itself(kind: type) -> set[str]:
    """Names that a class defines, or uses of ``self`` and ``super()``."""
    used = {name for name in vars(kind) if not name.startswith("__")}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kind)))):
        if isinstance(node, ast.Attribute):
            of = node.value.func if isinstance(node.value, ast.Call) else node.value
            if isinstance(of, ast.Name) and of.id in ("self", "super"):
                used.add(node.attr)
    return used - {"__init__"}


def assigned(kind: type) -> set[str]:
    """Names of the attributes that methods of a class, or of those it inherits from, assign to self."""
    return {
        node.attr
        for base in kind.__mro__
        if base.__module__.startswith("nvflare")
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base))))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if isinstance(node.value, ast.Name) and node.value.id == "self"
    }
