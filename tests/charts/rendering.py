"""Renders charts with Helm's own code as a Python package: no test needs a program on the machine."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHARTS = Path(__file__).parents[2] / "helm"

Object = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """The objects of a release, and what Helm prints after the installation."""

    objects: tuple[Object, ...]
    notes: str

    def one(self, kind: str, suffix: str = "") -> Object:
        found = [o for o in self.of(kind) if o["metadata"]["name"].endswith(suffix)]
        return min(found, key=lambda o: len(o["metadata"]["name"]))

    def of(self, kind: str) -> list[Object]:
        return [o for o in self.objects if o["kind"] == kind]

    @property
    def pod(self) -> Object:
        """The participant's pod."""
        template: Object = self.one("StatefulSet")["spec"]["template"]
        return template

    @property
    def pods(self) -> list[Object]:
        """Every pod: those of StatefulSets, and that of `helm test`."""
        return [*(owner["spec"]["template"] for owner in self.of("StatefulSet")), *self.of("Pod")]


def render(
    chart: str | Path, values: Mapping[str, Any], name: str = "bonn", namespace: str = "ring-bonn"
) -> Rendered:
    texts = _loaded(CHARTS / chart).render(dict(values), name=name, namespace=namespace)
    notes = "".join(text for path, text in texts.items() if path.endswith("NOTES.txt"))
    objects = (
        document
        for path, text in sorted(texts.items())
        if not path.endswith("NOTES.txt")
        for document in yaml.load_all(text, _NoDuplicateKeys)
    )
    return Rendered(tuple(filter(None, objects)), notes)


def merged(values: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """As Helm merges a further values file."""
    result = copy.deepcopy(dict(values))
    for key, value in further.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def paths(values: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all values that hold no others."""
    if isinstance(values, dict | list) and values:
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from paths(value, (*path, key))
    else:
        yield path


@cache
def _loaded(chart: Path) -> helm_python.Chart:
    return helm_python.Chart.load(chart)


class _NoDuplicateKeys(yaml.CSafeLoader):
    """Refuses what YAML forbids and PyYAML takes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate keys: {sorted(keys)}"
        return super().construct_mapping(node, deep)
