"""Read a topology file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from flaremesh.topology.checks import mistakes
from flaremesh.topology.edge_list import inlined
from flaremesh.topology.findings import Finding, Location, Mistake, TopologyError
from flaremesh.topology.schema import Topology
from flaremesh.topology.validation import validate

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser is ten times faster


def load(path: str | Path) -> Topology:
    """The topology of a file, checked.

    Paths in the file are relative to it. What is returned needs the file no more: an edge-list file has
    become the edges, and the path of the problem's file is absolute.

    Raises:
        TopologyError: with everything that is wrong with the file.
    """
    path = Path(path)
    root, written = _parse(path)
    data, edge_list = inlined(written, path.parent)
    topology, found = validate(data)
    found += [*_duplicate_keys(root), *edge_list.mistakes, *_missing_file(data, path.parent), *mistakes(data)]
    if topology is None or found:
        findings = dict.fromkeys(_locate(edge_list.relocate(mistake), root) for mistake in found)
        raise TopologyError(path, sorted(findings, key=lambda finding: finding.line))
    return _with_absolute_file(topology, path.parent)


def _parse(path: Path) -> tuple[yaml.Node, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        loader = _Loader(text)
        root = loader.get_single_node() or yaml.ScalarNode("tag:yaml.org,2002:null", "")
        data = loader.construct_document(root)
    except OSError as error:
        raise _unreadable(path, f"the file cannot be read: {error.strerror}", "check the path") from None
    except UnicodeDecodeError:
        raise _unreadable(path, "the file is not UTF-8 text", "save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        remedy = "check indentation, colons, brackets and quotes here"
        if "\t" in (text.splitlines() or [""])[min(line, text.count("\n"))]:
            remedy = "indent with spaces, not with a tab"
        raise _unreadable(path, f"this is not YAML: {error.problem}", remedy, line + 1) from None
    except yaml.YAMLError as error:
        raise _unreadable(path, f"this is not YAML: {error}", "remove the character") from None
    if not isinstance(data, dict):
        problem = "the file is empty" if data is None else "the file holds no fields"
        raise _unreadable(path, problem, "start with apiVersion: flaremesh/v1")
    return root, data


def _unreadable(path: Path, problem: str, remedy: str, line: int = 1) -> TopologyError:
    return TopologyError(path, [Finding(line, "", problem, remedy)])


def _duplicate_keys(node: yaml.Node, at: Location = ()) -> Iterator[Mistake]:
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            yield from _duplicate_keys(entry, (*at, index))
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in first:
                yield Mistake(
                    (*at, key.value), f"the field is already in line {first[key.value]}", "keep one of them"
                )
            first.setdefault(key.value, line)
            yield from _duplicate_keys(value, (*at, key.value))


def _locate(mistake: Mistake, root: yaml.Node) -> Finding:
    """Find the line of a mistake: of the value, or of the innermost thing around it that the file holds."""
    node, line, field = root, root.start_mark.line + 1, ""
    for step in mistake.location:
        field += f"[{step}]" if isinstance(step, int) else f"{'.' if field else ''}{step}"
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == step:
                    node, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
    return Finding(line, field, mistake.problem, mistake.remedy)


def _missing_file(data: Mapping[str, Any], folder: Path) -> Iterator[Mistake]:
    match data:
        case {"run": {"problem": {"file": str(file)}}} if not (folder / file).is_file():
            yield Mistake(("run", "problem", "file"), f"{folder / file} does not exist", "check the path")


def _with_absolute_file(topology: Topology, folder: Path) -> Topology:
    run = topology.run
    if run.problem.file is None:
        return topology
    problem = run.problem.model_copy(update={"file": (folder / run.problem.file).resolve()})
    return topology.model_copy(update={"run": run.model_copy(update={"problem": problem})})
