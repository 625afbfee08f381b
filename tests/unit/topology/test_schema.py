from pathlib import Path

import jsonschema
import pytest
import yaml
from topology_file import with_sections

from flaremesh.topology.load import load
from flaremesh.topology.schema import Topology

EXAMPLES = sorted((Path(__file__).parents[3] / "provision").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = Topology.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted_by_the_loader_and_by_the_schema_for_editors(
    example: Path, validator: jsonschema.Draft202012Validator
) -> None:
    assert load(example).name == example.stem
    validator.validate(yaml.safe_load(example.read_text()))


@pytest.mark.parametrize(
    "snippet",
    [
        "colour: red",
        "graph: {kind: rings}",
        "graph: {kind: ring, p: 0.5}",
        "server: {host: h}",
        "weights: best",
    ],
)
def test_the_schema_for_editors_refuses_what_the_loader_refuses(
    snippet: str, validator: jsonschema.Draft202012Validator
) -> None:
    assert not validator.is_valid(yaml.safe_load(with_sections(snippet)))


@pytest.mark.parametrize("ports", ["8102", "8102-8105", "'8102'"])
def test_the_schema_for_editors_accepts_ports_as_the_loader_does(
    ports: str, validator: jsonschema.Draft202012Validator
) -> None:
    site = f"{{name: bonn, org: ukb, link: {{host: h, ports: {ports}}}}}"

    validator.validate(yaml.safe_load(with_sections(f"sites: [{site}, {{name: aachen, org: uka}}]")))


def test_every_field_is_explained_to_the_editor() -> None:
    schema = Topology.model_json_schema()
    for model in [schema, *schema["$defs"].values()]:
        for name, field in model["properties"].items():
            assert "description" in field, f"{model['title']}.{name}"
