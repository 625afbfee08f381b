"""Writes what of the charts says the same as values.py: values.yaml, values.schema.json and README.md."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from flaremesh.provision.releases import CHARTS
from flaremesh.provision.values import Participant, ServerValues, SiteValues

_MODELS: dict[str, type[Participant]] = {"flaremesh-server": ServerValues, "flaremesh-site": SiteValues}
_GENERATED = "Generated from src/flaremesh/provision/values.py by `make charts`: do not edit."
_WIDTH = 110


def files() -> dict[Path, str]:
    """The files, by their path in the folder of the charts."""
    return {
        Path(chart) / name: text
        for chart, model in _MODELS.items()
        for name, text in (
            ("values.yaml", _values(model)),
            ("values.schema.json", _schema(model)),
            ("README.md", _readme(chart, model)),
        )
    }


class _Entry(NamedTuple):
    path: tuple[str, ...]
    description: str
    default: Any  # None of an entry that holds others


def _entries(
    model: type[BaseModel], instance: BaseModel | None, path: tuple[str, ...] = ()
) -> Iterator[_Entry]:
    for name, field in model.model_fields.items():
        value = getattr(instance, name) if instance else ("" if field.is_required() else field.default)
        here = (*path, field.alias or name)
        if isinstance(value, BaseModel):
            yield _Entry(here, field.description or "", None)
            yield from _entries(type(value), value, here)
        else:
            yield _Entry(here, field.description or "", list(value) if isinstance(value, tuple) else value)


def _values(model: type[Participant]) -> str:
    lines = [
        f"# {_GENERATED}",
        "# `flaremesh provision` writes what follows from the topology; the rest is yours.",
    ]
    for path, description, default in _entries(model, None):
        indent = "  " * (len(path) - 1)
        if len(path) == 1:
            lines.append("")
        lines += textwrap.wrap(
            description, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        lines.append(f"{indent}{path[-1]}:" + ("" if default is None else f" {json.dumps(default)}"))
    return "\n".join(lines) + "\n"


def _schema(model: type[Participant]) -> str:
    schema = model.model_json_schema()
    # what Helm itself adds to the values of a chart with dependencies
    own = {"global": {"type": "object"}}
    library = {"type": "object", "properties": own, "additionalProperties": False}
    schema["properties"] |= own | {"flaremesh-participant": library}
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "$comment": _GENERATED}
    # draft 7, which Helm reads, has another word for it
    return json.dumps(head | schema, indent=2).replace("$defs", "definitions") + "\n"


def _readme(chart: str, model: type[Participant]) -> str:
    meta = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())
    rows = (
        f"| `{'.'.join(path)}` | {description} | `{json.dumps(default)}` |"
        for path, description, default in _entries(model, None)
        if default is not None
    )
    return "\n".join(
        [
            f"# {chart}",
            "",
            f"{meta['description']}.",
            "",
            "`flaremesh provision` writes a folder per participant with this chart, its values, its kit, and",
            "a README that says how to install them. All values:",
            "",
            "| value | what it is | default |",
            "|---|---|---|",
            *rows,
            "",
            f"<!-- {_GENERATED} -->",
            "",
        ]
    )


if __name__ == "__main__":
    for path, text in files().items():
        (CHARTS / path).write_text(text)
