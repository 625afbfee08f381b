"""Writes the charts' values.yaml, values.schema.json and README.md from the models of their values."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from flaremesh.provision.monitoring_values import MonitoringValues
from flaremesh.provision.releases import CHARTS, MONITORING_CHART
from flaremesh.provision.values import ServerValues, SiteValues, Values

_MODELS: dict[str, type[Values]] = {
    "flaremesh-server": ServerValues,
    "flaremesh-site": SiteValues,
    MONITORING_CHART: MonitoringValues,
}
_WIDTH = 110


def files() -> dict[Path, str]:
    """The files, by their path in the folder of the charts."""
    return {
        Path(chart) / name: text
        for chart, model in _MODELS.items()
        for name, text in (
            ("values.yaml", _values(model)),
            ("values.schema.json", _schema(chart, model)),
            ("README.md", _readme(chart, model)),
        )
    }


def _generated(model: type[Values]) -> str:
    source = model.__module__.replace(".", "/")
    return f"Generated from src/{source}.py by `make charts`: do not edit."


def _meta(chart: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text()))


class _Entry(NamedTuple):
    path: tuple[str, ...]
    description: str
    default: Any
    holds_others: bool = False


def _entries(
    model: type[BaseModel], instance: BaseModel | None, path: tuple[str, ...] = ()
) -> Iterator[_Entry]:
    for name, field in model.model_fields.items():
        value = getattr(instance, name) if instance else ("" if field.is_required() else field.default)
        here = (*path, field.alias or name)
        if isinstance(value, BaseModel):
            yield _Entry(here, field.description or "", None, holds_others=True)
            yield from _entries(type(value), value, here)
        else:
            yield _Entry(here, field.description or "", list(value) if isinstance(value, tuple) else value)


def _values(model: type[Values]) -> str:
    lines = [
        f"# {_generated(model)}",
        "# `flaremesh provision` writes what follows from the topology; the rest is yours.",
    ]
    for path, description, default, holds_others in _entries(model, None):
        indent = "  " * (len(path) - 1)
        if len(path) == 1:
            lines.append("")
        lines += textwrap.wrap(
            description, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        lines.append(f"{indent}{path[-1]}:" + ("" if holds_others else f" {json.dumps(default)}"))
    return "\n".join(lines) + "\n"


def _schema(chart: str, model: type[Values]) -> str:
    schema = model.model_json_schema()
    # what Helm itself adds to the values of a chart with dependencies
    own = {"global": {"type": "object"}}
    library = {"type": "object", "properties": own, "additionalProperties": False}
    dependencies = [dependency["name"] for dependency in _meta(chart).get("dependencies", [])]
    schema["properties"] |= own | dict.fromkeys(dependencies, library)
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "$comment": _generated(model)}
    # draft 7, which Helm reads, has another word for it
    return json.dumps(head | schema, indent=2).replace("$defs", "definitions") + "\n"


def _readme(chart: str, model: type[Values]) -> str:
    folder = "a folder" if model is MonitoringValues else "a folder per participant"
    kit = "" if model is MonitoringValues else ", its kit"
    rows = (
        f"| `{'.'.join(path)}` | {description} | `{json.dumps(default)}` |"
        for path, description, default, holds_others in _entries(model, None)
        if not holds_others
    )
    return "\n".join(
        [
            f"# {chart}",
            "",
            f"{_meta(chart)['description']}.",
            "",
            f"`flaremesh provision` writes {folder} with this chart, its values{kit}, and",
            "a README that says how to install them. All values:",
            "",
            "| value | what it is | default |",
            "|---|---|---|",
            *rows,
            "",
            f"<!-- {_generated(model)} -->",
            "",
        ]
    )


if __name__ == "__main__":
    for path, text in files().items():
        (CHARTS / path).write_text(text)
