"""Validate the data of a topology file, and say in plain words what pydantic found."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flaremesh.topology.findings import Location, Mistake, instead, near
from flaremesh.topology.schema import GRAPH_KINDS, Topology

_SCHEMA: dict[str, Any] = Topology.model_json_schema()
_MODELS: dict[str, Any] = _SCHEMA["$defs"]

_NO_SUCH_VALUE = {
    "int": "is no whole number",
    "float": "is no number",
    "bool": "is neither true nor false",
    "string": "is no text; YAML takes it for something else unless it stands in quotes",
    "tuple": "is no list",
    "model": "is no mapping of fields",
    "dict": "is no mapping of fields",
    "finite": "is not finite",
}
"""By the first word of pydantic's error type."""

_BOUNDS = {"gt": "greater than", "ge": "of at least", "lt": "less than", "le": "of at most"}


def validate(data: Mapping[str, Any]) -> tuple[Topology | None, list[Mistake]]:
    """The topology, or the mistakes in its fields."""
    try:
        return Topology.model_validate(data), []
    except ValidationError as error:
        return None, list(_mistakes(error.errors(include_url=False)))


def _mistakes(errors: Sequence[ErrorDetails]) -> Iterator[Mistake]:
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    for error in errors:
        location = error["loc"]
        misspelt = any(
            location[:-1] == other[:-1] and near(str(other[-1]), [str(location[-1])]) for other in unknown
        )
        if error["type"] == "missing" and misspelt:
            continue  # reported as an unknown field
        if error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            continue  # pydantic counts the valid entries only
        # the name of a union's member stands in pydantic's location, but not in the file
        yield Mistake(tuple(step for step in location if step not in _MODELS), *_words(error))


def _words(error: ErrorDetails) -> tuple[str, str]:
    """Problem and remedy."""
    location, value, context = error["loc"], error["input"], error.get("ctx", {})
    schema = _schema_at(location)
    description = schema.get("description", "another value").splitlines()[0]
    kind = error["type"]
    match kind:
        case "refused":
            return context["problem"], context["remedy"]
        case "missing":
            return "the field is missing", f"add {location[-1]}: {description}"
        case "extra_forbidden":
            return "there is no such field", instead(
                str(location[-1]), list(_schema_at(location[:-1])["properties"])
            )
        case "literal_error":
            return f"{value!r} is unknown", instead(str(value), schema.get("enum", [schema.get("const")]))
        case "too_short":
            return f"{len(value)} given, at least {context['min_length']} needed", f"expected: {description}"
        case "union_tag_not_found":
            return _graph_words(value)
        case "string_pattern_mismatch":
            return f"{value!r} is not allowed", f"expected: {description}"
    for bound in context.keys() & _BOUNDS.keys():
        return f"{value!r} is out of range", f"write a value {_BOUNDS[bound]} {context[bound]}: {description}"
    problem = _NO_SUCH_VALUE.get(kind.partition("_")[0], "is not valid")
    return f"{value!r} {problem}", f"expected: {description}"


def _graph_words(graph: Any) -> tuple[str, str]:
    if isinstance(graph, str):
        return (
            f"{graph!r} is no mapping of fields",
            f"write graph: {{kind: {near(graph, GRAPH_KINDS) or 'ring'}}}",
        )
    if isinstance(graph, dict) and "kind" in graph:
        return f"the kind {graph['kind']!r} is unknown", instead(str(graph["kind"]), GRAPH_KINDS)
    return "it has neither kind nor edges nor file", "write graph: {kind: ring}, or list the edges"


def _schema_at(location: Location) -> dict[str, Any]:
    """The JSON schema of the value at a location, with the description that it has there."""
    schema = _SCHEMA
    for step in location:
        if step in _MODELS:
            schema = _MODELS[str(step)]
        elif isinstance(step, int):
            schema = _resolved(schema.get("items", {}))
        else:
            schema = _resolved(schema.get("properties", {}).get(step, {}))
    return schema


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, or the first member of a union, as ``X | None`` is one."""
    if "anyOf" in schema:
        return _resolved(schema["anyOf"][0]) | schema
    if "$ref" in schema:
        return {**_MODELS[schema["$ref"].rpartition("/")[2]], **schema}
    return schema
