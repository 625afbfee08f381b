"""Read a topology file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flaremesh.topology.checks import Mistake, mistakes
from flaremesh.topology.findings import Finding, Location, TopologyError, instead, near
from flaremesh.topology.schema import GRAPH_KINDS, Topology

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser is ten times faster

_SCHEMA: dict[str, Any] = Topology.model_json_schema()


def load(path: str | Path) -> Topology:
    """The topology of a file, checked.

    Paths in the file are relative to it. What is returned needs the file no more: an edge-list file has
    become the edges, and the path of the problem's file is absolute.

    Raises:
        TopologyError: with everything that is wrong with the file.
    """
    path = Path(path)
    root, data = _parse(path)
    found = list(_duplicate_keys(root))
    data, in_edge_list = _inline_edge_list(data, path.parent)
    found += [*in_edge_list, *_missing_file(data, path.parent), *mistakes(data)]
    try:
        topology = Topology.model_validate(data)
    except ValidationError as error:
        found += _translate(error.errors(include_url=False))
    if found:
        raise TopologyError(path, sorted({_locate(mistake, root) for mistake in found}, key=lambda f: f.line))
    return _with_absolute_file(topology, path.parent)


# YAML


def _parse(path: Path) -> tuple[yaml.Node, Any]:
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node() or yaml.ScalarNode("tag:yaml.org,2002:null", "")
        data = loader.construct_document(root)
    except OSError as error:
        raise _single(path, 1, f"the file cannot be read: {error.strerror}", "check the path") from None
    except UnicodeDecodeError:
        raise _single(path, 1, "the file is not UTF-8 text", "save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, error) from None
    except yaml.YAMLError as error:
        raise _single(path, 1, f"this is not YAML: {error}", "remove the character") from None
    if data is None:
        raise _single(path, 1, "the file is empty", "start with apiVersion: flaremesh/v1")
    if not isinstance(data, dict):
        raise _single(path, 1, "the file holds no fields", "start with apiVersion: flaremesh/v1")
    return root, data


def _syntax_error(path: Path, error: yaml.MarkedYAMLError) -> TopologyError:
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark else 1
    lines = path.read_text(encoding="utf-8").splitlines()
    tab = number <= len(lines) and "\t" in lines[number - 1]
    remedy = (
        "indent with spaces, not with a tab" if tab else "check indentation, colons, brackets and quotes here"
    )
    return _single(path, number, f"this is not YAML: {error.problem or error.context}", remedy)


def _single(path: Path, line: int, problem: str, remedy: str) -> TopologyError:
    return TopologyError(path, [Finding(line, "", problem, remedy)])


def _duplicate_keys(node: yaml.Node, at: Location = ()) -> Iterator[Mistake]:
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            yield from _duplicate_keys(entry, (*at, index))
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = first.setdefault(key.value, key.start_mark.line + 1)
            if line != key.start_mark.line + 1:
                yield Mistake((*at, key.value), f"the field is already in line {line}", "keep one of them")
            yield from _duplicate_keys(value, (*at, key.value))


def _locate(mistake: Mistake, root: yaml.Node) -> Finding:
    """Find the line of a mistake: of the value, or of the innermost thing around it that the file holds."""
    node, line, field = root, root.start_mark.line + 1, ""
    for step in mistake.location:
        if step == "" or step in _SCHEMA["$defs"]:
            continue  # pydantic puts the tag of a union's member into the way
        field += f"[{step}]" if isinstance(step, int) else f"{'.' if field else ''}{step}"
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == step:
                    node, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return Finding(line, field, mistake.problem, mistake.remedy)


# files that the topology file names


def _inline_edge_list(data: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[Mistake]]:
    """Replace ``graph.file`` by the edges in that file."""
    graph = data.get("graph")
    if not isinstance(graph, Mapping) or not isinstance(graph.get("file"), str):
        return data, []
    at: Location = ("graph", "file")
    try:
        lines = (folder / graph["file"]).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return data, [Mistake(at, f"{graph['file']} cannot be read: {error}", "check the path")]
    edges, found = [], []
    for number, line in enumerate(lines, start=1):
        match line.partition("#")[0].split():
            case []:
                pass
            case [source, target]:
                edges.append({"from": source, "to": target})
            case [source, target, weight] if _is_number(weight):
                edges.append({"from": source, "to": target, "weight": float(weight)})
            case _:
                found.append(
                    Mistake(
                        at, f"{graph['file']}, line {number}: {line!r} is no edge", "write: from to [weight]"
                    )
                )
    explicit = {key: value for key, value in graph.items() if key != "file"} | {"edges": edges}
    return data | {"graph": explicit}, found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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


# pydantic's errors in our words


def _translate(errors: list[ErrorDetails]) -> Iterator[Mistake]:
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    for error in errors:
        location = error["loc"]
        if error["type"] == "missing" and any(
            location[:-1] == other[:-1] and near(str(other[-1]), [str(location[-1])]) for other in unknown
        ):
            continue  # it is there, misspelt, and reported as such
        yield Mistake(location, *_words(error))


def _words(error: ErrorDetails) -> tuple[str, str]:
    """Problem and remedy."""
    location, value, context = error["loc"], error["input"], error.get("ctx", {})
    field = _schema_at(location)
    description = field.get("description", "a valid value").splitlines()[0]
    match error["type"]:
        case "missing":
            return "the field is missing", f"add {location[-1]}: {description}"
        case "extra_forbidden":
            return "there is no such field", instead(
                str(location[-1]), list(_schema_at(location[:-1])["properties"])
            )
        case "literal_error":
            known = field.get("enum", [field.get("const")])
            return f"{value!r} is unknown", instead(str(value), known)
        case "refused":
            return context["problem"], context["remedy"]
        case "union_tag_not_found" | "union_tag_invalid":
            if isinstance(value, str):
                return (
                    f"{value!r} is not a mapping",
                    f"write graph: {{kind: {near(value, GRAPH_KINDS) or 'ring'}}}",
                )
            if isinstance(value, dict) and "kind" in value:
                return f"the kind {value['kind']!r} is unknown", instead(str(value["kind"]), GRAPH_KINDS)
            return "it has neither kind nor edges nor file", "write a kind, e.g. graph: {kind: ring}"
        case "too_short":
            return f"{len(value)} given, at least {context['min_length']} needed", f"write {description}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return (
                f"{value!r} is not a mapping",
                f"write fields below it: {', '.join(field.get('properties', {}))}",
            )
        case "string_pattern_mismatch":
            return f"{value!r} is not allowed here", f"write {description}"
    return f"{value!r} is wrong: {_decapitalised(error['msg'])}", f"write {description}"


def _decapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]


def _schema_at(location: Location) -> dict[str, Any]:
    """The JSON schema of the value at a location."""
    definitions = _SCHEMA["$defs"]
    schema = _SCHEMA
    for step in location:
        if step in definitions:
            schema = definitions[step]
            continue
        inner = (
            schema.get("items", {}) if isinstance(step, int) else schema.get("properties", {}).get(step, {})
        )
        options = [option for option in inner.get("anyOf", []) if option.get("type") != "null"]
        outer = inner
        while options or "$ref" in inner:
            inner = options[0] if options else definitions[inner["$ref"].rpartition("/")[2]]
            options = []
        schema = inner | ({"description": outer["description"]} if "description" in outer else {})
    return schema
