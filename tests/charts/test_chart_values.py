"""Values, their documentation, and what the templates do with them say the same."""

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helm_python.errors import HelmError
from installation import MONITORING, PARTICIPANTS
from rendering import CHARTS, merged, paths, render

from tools import chart_files

# what a named template gets as a dict, and what a Service's port is made of
_LOCAL = {
    *("peer", "targetPort"),
    *("root", "component", "port", "container", "volumes", "config", "ingress", "egress"),
}
# these do nothing where another value takes their place
_REPLACED = {"kit": {"existingSecret": ""}, "storage": {"existingClaim": ""}, "image": {"digest": ""}}
_WORKLOAD = {key: _REPLACED[key] for key in ("storage", "image")}


def schema_of(chart: Path) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((chart / "values.schema.json").read_text())
    return schema


def documented(schema: dict[str, Any]) -> set[tuple[str, ...]]:
    """Paths of all values of a schema, those of a list's items as one."""

    def walk(part: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        while name := part.get("$ref"):
            part = schema["definitions"][name.rpartition("/")[2]]
        if part.get("type") == "array" and "$ref" in part["items"]:
            yield from walk(part["items"], path)
        elif "properties" in part:
            for key, value in part["properties"].items():
                yield from walk(value, (*path, key))
        else:
            yield path

    without_helms_own = {k: v for k, v in schema["properties"].items() if k not in _HELMS}
    return set(walk({"properties": without_helms_own}, ()))


_HELMS = ("global", "flaremesh-participant")


def without_effect(chart: Path, every: dict[str, Any]) -> set[tuple[str, ...]]:
    """Documented values that can change without a change of what is rendered."""
    replaced = {"prometheus": _WORKLOAD, "grafana": _WORKLOAD} if chart.name == MONITORING else _REPLACED
    bases = [(base, _text(chart, base)) for base in (every, merged(every, replaced))]
    return {
        path
        for path in documented(schema_of(chart))
        if all(_text(chart, _changed(chart, base, path)) == text for base, text in bases)
    }


def _text(chart: Path, values: dict[str, Any]) -> str:
    rendered = render(chart, values)
    # which changes with each value of the kit, and would hide that nothing else does
    rendered.pod["metadata"]["annotations"].pop("checksum/kit", None)
    return json.dumps(rendered.objects)


def _changed(chart: Path, values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    valid = jsonschema.Draft7Validator(schema_of(chart)).is_valid
    holder: Any = changed
    for key in path[:-1]:
        holder = holder[key][0] if isinstance(holder[key], list) else holder[key]
    value = holder.pop(path[-1], None)
    if isinstance(value, bool):
        holder[path[-1]] = not value
    elif isinstance(value, dict):
        holder[path[-1]] = value | {"another": "x"}
        if not valid(changed):  # it holds more than text
            holder[path[-1]] = {}
    elif isinstance(value, list):
        holder[path[-1]] = value * 2
    elif not valid(changed):  # it is required
        holder[path[-1]] = value + ("x" if isinstance(value, str) else 1)
    return changed


def undocumented(chart: Path) -> set[str]:
    """Values and fields of values that templates read and the schema does not know."""
    schema = schema_of(chart)
    known = {path[:length] for path in documented(schema) for length in range(len(path) + 1)}
    names = {key for path in known for key in path}
    found = set()
    sources = ("templates/**/*", "charts/*/templates/*", "files/scrape-config.yaml")
    for template in (path for pattern in sources for path in chart.glob(pattern)):
        for action in re.findall(r"\{\{-?(.*?)-?\}\}", template.read_text() if template.is_file() else ""):
            if action.strip().startswith("/*"):
                continue
            code = re.sub(r'"[^"]*"', '""', action).replace(".root.", "$.")
            for path in re.findall(r"\.Values\.([\w.]+)", code):
                if tuple(path.split(".")) not in known:
                    found.add(path)
            for path in re.findall(r"(?<![\w.])\$?\.([a-z][\w.]*)", code):
                found |= set(path.split(".")) - names - _LOCAL
    return found


@pytest.fixture
def copied(chart: str, tmp_path: Path) -> Path:
    """A chart that a test may change."""
    return Path(shutil.copytree(CHARTS / chart, tmp_path / chart))


def test_every_option_is_in_the_file_of_every_option(chart: str, every_option: dict[str, Any]) -> None:
    known = documented(schema_of(CHARTS / chart))
    given = {tuple(key for key in path if isinstance(key, str)) for path in paths(every_option)}
    assert [path for path in known if not any(path == given_path[: len(path)] for given_path in given)] == []


def test_every_documented_value_changes_what_is_rendered(chart: str, every_option: dict[str, Any]) -> None:
    assert without_effect(CHARTS / chart, every_option) == set()


def test_a_documented_value_that_changes_nothing_is_found(copied: Path, every_option: dict[str, Any]) -> None:
    schema = schema_of(copied)
    first = next(iter(schema["properties"]))
    some = {first: schema["properties"][first], "unused": {"type": "string"}}
    schema |= {"properties": some, "additionalProperties": True}
    (copied / "values.schema.json").write_text(json.dumps(schema))
    assert without_effect(copied, every_option | {"unused": "text"}) == {("unused",)}


def test_every_value_that_a_template_reads_is_documented(chart: str) -> None:
    assert undocumented(CHARTS / chart) == set()


@pytest.mark.parametrize("chart", PARTICIPANTS)
@pytest.mark.parametrize(
    ("action", "name"),
    [
        ("{{ .Values.image.registry }}", "image.registry"),
        ("{{- with .Values.image }}{{ .registry }}{{ end }}", "registry"),
        ("{{- if $.Values.debug }}{{ end }}", "debug"),
    ],
)
def test_a_value_that_a_template_reads_without_documentation_is_found(
    copied: Path, action: str, name: str
) -> None:
    (copied / "templates/extra.yaml").write_text(action)
    assert undocumented(copied) == {name}


def test_generated_files_are_those_that_are_checked_in() -> None:
    for path, text in chart_files.files().items():
        assert (CHARTS / path).read_text() == text, f"{path} differs: run `make charts`"


def test_the_defaults_fit_the_schema_once_it_is_said_what_for(chart: str) -> None:
    missing: dict[str, Any] = {"name": "bonn", "mesh": "ring"}
    if chart == MONITORING:
        missing = {"meshes": ["ring"], "namespaces": ["ring-bonn"]}
    values = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
    schema = schema_of(CHARTS / chart)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    assert {error.path[0] for error in validator.iter_errors(values)} == missing.keys()
    validator.validate(values | missing)


def test_the_readme_lists_every_value(chart: str) -> None:
    readme = (CHARTS / chart / "README.md").read_text()
    in_lists = ("sites", "meet", "from", "to")
    for path in documented(schema_of(CHARTS / chart)):
        shown = next((path[: i + 1] for i, key in enumerate(path) if key in in_lists), path)
        assert f"| `{'.'.join(shown)}` |" in readme


def _objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    yield from (part for part in schema["definitions"].values() if part["type"] == "object")


def test_every_object_of_the_schema_is_closed(chart: str) -> None:
    for part in _objects(schema_of(CHARTS / chart)):
        assert part["additionalProperties"] is False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relicas": 2}, ["''", "relicas"]),
        ({"image": {"name": "flaremesh"}}, ["/image", "name"]),
        ({"name": "Bonn"}, ["/name", "Bonn"]),
        ({"name": None}, ["name"]),
        ({"service": {"type": "Ingress"}}, ["/service/type", "NodePort"]),
        ({"storage": {"size": "big"}}, ["/storage/size", "big"]),
        ({"metrics": {"port": 0}}, ["/metrics/port", "1"]),
        ({"image": {"digest": "sha256:abc"}}, ["/image/digest", "sha256:abc"]),
        ({"podSecurity": {"user": 0}}, ["/podSecurity/user", "1"]),
        ({"link": {"to": [{"name": "ulm"}]}}, ["/link/to/0", "firstPort"]),
        ({"flaremesh-participant": {"name": "bonn"}}, ["/flaremesh-participant", "name"]),
        ({"kit": {"startup": None}}, ["bonn", "no kit", "-f kit.yaml", "kit.existingSecret"]),
        ({"kit": {"local": None}}, ["bonn", "kit.local is empty", "-f values.yaml"]),
        ({"server": {"namespace": ""}}, ["server", "namespace", "cidrs", "-f values.yaml"]),
    ],
)
def test_a_wrong_value_is_refused_by_a_message_that_names_it(
    site: dict[str, Any], change: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(HelmError) as refused:
        render("flaremesh-site", merged(site, change))
    for word in words:
        assert word in str(refused.value)
