"""Validate the data of a file that a person wrote, and say in plain words what pydantic found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flaremesh.topology.mistakes import Location, Mistake, instead, near, shown
from flaremesh.topology.schema import GRAPH_KINDS, Deploy, Edge, Topology

M = TypeVar("M", bound=BaseModel)

_NO_SUCH_VALUE = {
    "int": "is no whole number",
    "float": "is no number",
    "bool": "is neither true nor false",
    "string": "is no text; YAML takes it for something else unless it stands in quotes",
    "tuple": "is no list",
    "model": "is no mapping of fields",
    "dict": "is no mapping of fields",
    "finite": "is not finite",
    "path": "is no path",
}
"""What is wrong with a value, by the first word of pydantic's error type."""

_BOUNDS = {"gt": "greater than", "ge": "of at least", "lt": "less than", "le": "of at most"}


def validate(
    model: type[M], data: Mapping[str, Any], written: Callable[[Location], str | None]
) -> tuple[M | None, list[Mistake]]:
    """What the file means, or the mistakes in its fields.

    Args:
        model: what the file is to be.
        data: what the file says.
        written: returns the text of a value without quotes, as Document.written does.
    """
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        return None, list(_mistakes(model, error.errors(include_url=False), written))


def _mistakes(
    model: type[BaseModel], errors: Sequence[ErrorDetails], written: Callable[[Location], str | None]
) -> Iterator[Mistake]:
    schema = _schema(model)
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    for error in errors:
        location = error["loc"]
        misspelt = any(
            location[:-1] == other[:-1] and _near(str(other[-1]), [str(location[-1])]) for other in unknown
        )
        if error["type"] == "missing" and misspelt:
            continue  # reported as an unknown field
        if error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            continue  # pydantic counts the valid entries only
        if error["type"] == "invalid_key" or location[-1] == "[key]":
            continue  # see checks.py
        # the name of a union's member stands in pydantic's location, but not in the file
        place = tuple(step for step in location if step not in schema.get("$defs", {}))
        value = error["input"]
        quoted = shown(value) if isinstance(value, str) else written(place) or shown(value)
        yield Mistake(place, *_words(schema, error, quoted))


def _words(root: dict[str, Any], error: ErrorDetails, value: str) -> tuple[str, str]:
    """Problem and remedy; ``value`` is what was given, as messages quote it."""
    location, context = error["loc"], error.get("ctx", {})
    schema = _schema_at(root, location)
    description = schema.get("description", "another value").splitlines()[0]
    kind = error["type"]
    match kind:
        case "refused":
            return context["problem"], context["remedy"]
        case "missing":
            return "the field is missing", f"add {location[-1]}: {description}"
        case "extra_forbidden":
            name, known = str(location[-1]), list(_schema_at(root, location[:-1])["properties"])
            return "there is no such field", instead(_near(name, known) or name, known)
        case "literal_error" | "enum":
            known = schema.get("enum", [schema.get("const")])
            return f"{value} is unknown", instead(str(error["input"]), known)
        case "too_short":
            given, needed = len(error["input"]), context["min_length"]
            return f"{given} given, at least {needed} needed", f"expected: {description}"
        case "too_long":
            return f"more than {context['max_length']} given", f"expected: {description}"
        case "string_too_long":
            most = context["max_length"]
            return (
                f"{value} has {len(error['input'])} characters",
                f"write at most {most}: {description}",
            )
        case "union_tag_not_found":
            return _graph_words(error["input"])
        case "string_pattern_mismatch":
            return f"{value} is not allowed", f"expected: {description}"
    for bound in context.keys() & _BOUNDS.keys():
        return f"{value} is out of range", f"write a value {_BOUNDS[bound]} {context[bound]}: {description}"
    problem = _NO_SUCH_VALUE.get(kind.partition("_")[0], "is not valid")
    return f"{value} {problem}", f"expected: {description}"


_ALIASES = {
    name: field.alias
    for model in (Topology, Deploy, Edge)
    for name, field in model.model_fields.items()
    if field.alias
}
"""The fields' Python names, such as an edge's source and target, to their names in the file."""


def _near(name: str, known: Sequence[str]) -> str | None:
    """The known field that was most likely meant."""
    alias = _ALIASES.get(name)
    return alias if alias in known else near(name, known)


def _graph_words(graph: Any) -> tuple[str, str]:
    if isinstance(graph, str):
        return (
            f"{shown(graph)} is no mapping of fields",
            f"write graph: {{kind: {near(graph, GRAPH_KINDS) or 'ring'}}}",
        )
    if isinstance(graph, dict) and "kind" in graph:
        return f"the kind {shown(graph['kind'])} is unknown", instead(str(graph["kind"]), GRAPH_KINDS)
    return "it has neither kind nor edges nor file", "write graph: {kind: ring}, or list the edges"


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _schema_at(root: dict[str, Any], location: Location) -> dict[str, Any]:
    """The JSON schema of the value at a location, with the description that it has there."""
    models = root.get("$defs", {})
    schema = root
    for step in location:
        if step in models:
            schema = models[str(step)]
        elif isinstance(step, int):
            schema = _resolved(models, schema.get("items", {}))
        else:
            others = schema.get("additionalProperties")
            of_any_name = others if isinstance(others, dict) else {}
            schema = _resolved(models, schema.get("properties", {}).get(step, of_any_name))
    return schema


def _resolved(models: Mapping[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, or the first member of a union, as ``X | None`` is one."""
    if "anyOf" in schema:
        return _resolved(models, schema["anyOf"][0]) | schema
    if "$ref" in schema:
        return {**models[schema["$ref"].rpartition("/")[2]], **schema}
    return schema
