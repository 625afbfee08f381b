"""The schema for editors and the loader agree."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from topology_file import with_sections

from flaremesh.metrics.names import SHAREABLE
from flaremesh.topology.load import load
from flaremesh.topology.schema import Run, Topology, Wire

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
        "server: {host: a..b, org: o}",
        "server: {host: h, org: o, port: 0}",
        "admins: [{email: " + "a" * 60 + "@b.de, org: o}]",
        "graph: {edges: [{source: bonn, target: aachen}]}",
        "graph: {kind: erdos-renyi, p: 1, seed: -1}",
        "deploy: {gpu_image: flaremesh}",
        "deploy: {image: 'flaremesh:'}",
        "certificates: {root_days: 3000000}",
        "certificates: {days: 0}",
        "certificates: {revoked: [bonn]}",
        "certificates: {revoked: [-7]}",
        "weights: best",
        "metrics: {share: some}",
        "metrics: {share: [patients]}",
        "run: {algorithm: dgd, iterations: 1, wire: int4, problem: {path: a.B}}",
        "run: {algorithm: dgd, iterations: 1, wire: {encoding: int8, bits: 4}, problem: {path: a.B}}",
        "run: {algorithm: dgd, iterations: 1, mixing: {clip: 0}, problem: {path: a.B}}",
        "run: {algorithm: dgd, iterations: 1, mixing: {clip: far}, problem: {path: a.B}}",
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


@pytest.mark.parametrize(
    "snippet",
    [
        "deploy: {image: 'registry:5000/x/y:TAG', gpuImage: 'localhost/x@sha256:" + "0" * 64 + "'}",
        "server: {host: a-b.C.org, org: o, names: [10.0.0.1]}",
        "graph: {edges: [{from: bonn, to: aachen, weight: 0.5}]}",
        "run: {algorithm: dgd, iterations: 1, mixing: {clip: auto}, problem: {path: a.B}}",
        "run: {algorithm: dgd, iterations: 1, mixing: {clip: 0.5}, problem: {path: a.B}}",
    ],
)
def test_the_schema_for_editors_accepts_what_the_loader_accepts(
    snippet: str, validator: jsonschema.Draft202012Validator
) -> None:
    validator.validate(yaml.safe_load(with_sections(snippet)))


WIRES = {
    "int8": Wire(encoding="int8"),
    "{encoding: top-k, fraction: 0.05, gossip: 0.3}": Wire(encoding="top-k", fraction=0.05, gossip=0.3),
    "{encoding: bfloat16}": Wire(encoding="bfloat16"),
}


@pytest.mark.parametrize(("written", "meant"), WIRES.items())
def test_a_wire_is_a_word_or_a_mapping_to_the_loader_and_to_the_schema_for_editors(
    written: str, meant: Wire, validator: jsonschema.Draft202012Validator, tmp_path: Path
) -> None:
    problem = "{path: flaremesh.problems.digits.Digits}"
    content = with_sections(
        f"run: {{algorithm: dgd, iterations: 1, stepsize: 1, wire: {written}, problem: {problem}}}"
    )
    (tmp_path / "topology.yaml").write_text(content)

    assert load(tmp_path / "topology.yaml").run.wire == meant
    validator.validate(yaml.safe_load(content))


SHARED = {
    "": ((), ()),
    "metrics: {share: [ready]}": (("ready",), ("train_loss",)),
    "metrics: {share: all}": (tuple(SHAREABLE), ("train_loss",)),
}


@pytest.mark.parametrize(("written", "meant"), SHARED.items())
def test_sites_share_what_they_say_themselves_or_else_what_the_mesh_says(
    written: str,
    meant: tuple[tuple[str, ...], tuple[str, ...]],
    validator: jsonschema.Draft202012Validator,
    tmp_path: Path,
) -> None:
    of_the_mesh, of_the_second = meant
    own = "metrics: {share: [train_loss]}" if of_the_second else "metrics: {}"
    sites = f"sites: [{{name: bonn, org: ukb}}, {{name: aachen, org: uka, {own}}}]"
    content = with_sections(f"{written}\n{sites}")
    (tmp_path / "topology.yaml").write_text(content)

    topology = load(tmp_path / "topology.yaml")
    assert [topology.shared_by(site) for site in topology.sites] == [of_the_mesh, of_the_second]
    validator.validate(yaml.safe_load(content))


def test_a_wire_survives_the_way_through_json() -> None:
    for wire in WIRES.values():
        assert Wire.of(wire.model_dump(exclude_none=True)) == wire
        assert Wire.of(wire.model_dump()) == wire


def test_a_run_without_a_wire_sends_vectors_as_they_are() -> None:
    assert Run.model_fields["wire"].default == Wire(encoding="exact")


def test_every_field_is_explained_to_the_editor() -> None:
    schema = Topology.model_json_schema()
    for model in [schema, *schema["$defs"].values()]:
        for name, field in model["properties"].items():
            assert "description" in field, f"{model['title']}.{name}"


@pytest.mark.parametrize(
    ("written", "decimal"),
    [
        ("42", "42"),
        ("0x2a", "42"),
        ("'2A'", "42"),
        ("'5B:0F:A3'", "5967779"),
        ("'10:00'", "4096"),
        (str(2**160 - 1), str(2**160 - 1)),
    ],
)
def test_serial_numbers_may_be_written_as_tools_show_them(
    tmp_path: Path, validator: jsonschema.Draft202012Validator, written: str, decimal: str
) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(with_sections(f"certificates: {{revoked: [{written}]}}"))
    revoked = load(file).certificates.revoked
    assert revoked == (decimal,)
    validator.validate(yaml.safe_load(file.read_text()))
