"""Objects of the Prometheus Operator, judged by its definitions: the file that PROMETHEUS_OPERATOR names."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from rendering import Object

DEFINITIONS = Path(file) if (file := os.environ.get("PROMETHEUS_OPERATOR")) else None

# what there must be at least, for machines without the definitions
_LEAST = {"PodMonitor": {"podMetricsEndpoints", "selector"}, "PrometheusRule": {"groups"}}


def problems(document: Object) -> Iterator[str]:
    """What the cluster would refuse, or drop without a word."""
    if missing := _LEAST[document["kind"]] - document["spec"].keys():
        yield f"no {', '.join(missing)}"
    if DEFINITIONS:
        schema = _schemas()[document["kind"]]
        yield from (error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document))


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    assert DEFINITIONS, "it is not called without"
    documents = yaml.load_all(DEFINITIONS.read_text(), _Loader)
    return {
        document["spec"]["names"]["kind"]: _closed(version["schema"]["openAPIV3Schema"])
        for document in documents
        if document and document["kind"] == "CustomResourceDefinition"
        for version in document["spec"]["versions"]
        if document["spec"]["names"]["kind"] in _LEAST
    }


def _closed(schema: Any) -> Any:
    """A schema that refuses the fields which the cluster would drop."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    if closed.get("properties", {}).get("metadata") == {"type": "object"}:
        closed["properties"]["metadata"] = True
    return closed


class _Loader(yaml.CSafeLoader):
    """The definitions hold a bare `=`, which YAML 1.1 gives a meaning that nobody wants."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))
