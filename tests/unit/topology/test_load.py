"""What a topology file means once it is loaded."""

import codecs
import datetime
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from topology_file import with_sections

from flaremesh.topology.load import load
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology


def written(folder: Path, snippet: str) -> Path:
    path = folder / "topology.yaml"
    path.write_text(with_sections(snippet))
    return path


def test_an_edge_list_file_and_the_same_edges_in_place_give_one_topology(tmp_path: Path) -> None:
    (tmp_path / "edges.txt").write_text(
        "# who uses whom\nbonn heidelberg 0.3\n\naachen bonn 0.2  # a weak one\n"
    )
    in_place = written(
        tmp_path,
        "graph: {edges: [{from: bonn, to: heidelberg, weight: 0.3}, {from: aachen, to: bonn, weight: 0.2}]}\n"
        "weights: explicit",
    )
    expected = load(in_place)

    assert load(written(tmp_path, "graph: {file: edges.txt}\nweights: explicit")) == expected


def test_an_edge_says_whose_value_is_used_by_whom_with_which_weight(tmp_path: Path) -> None:
    snippet = (
        "graph:\n  directed: true\n  edges:\n"
        "  - {from: bonn, to: heidelberg, weight: 0.3}\n"
        "  - {from: aachen, to: bonn, weight: 0.2}\n"
        "  - {from: heidelberg, to: aachen, weight: 0.1}\n"
        "weights: explicit"
    )

    heidelberg, bonn, aachen = build(load(written(tmp_path, snippet))).schedules.values()

    assert heidelberg[0].in_weights == {"bonn": 0.3}
    assert heidelberg[0].self_weight == pytest.approx(0.7)
    assert heidelberg[0].out == ("aachen",)
    assert bonn[0].in_weights == {"aachen": 0.2}
    assert aachen[0].in_weights == {"heidelberg": 0.1}


def test_an_undirected_edge_counts_both_ways(tmp_path: Path) -> None:
    snippet = (
        "graph:\n  edges:\n  - {from: bonn, to: aachen, weight: 0.3}\n"
        "  - {from: heidelberg, to: aachen, weight: 0.1}\nweights: explicit"
    )

    mesh = build(load(written(tmp_path, snippet)))

    assert mesh.properties.symmetric
    assert mesh.schedules["aachen"][0].in_weights == {"heidelberg": 0.1, "bonn": 0.3}


def test_one_port_needs_no_quotes(tmp_path: Path) -> None:
    snippet = "sites: [{name: bonn, org: ukb, link: {host: h, ports: 8102}}, {name: aachen, org: uka}]"

    link = load(written(tmp_path, snippet)).sites[0].link

    assert link is not None
    assert link.ports == "8102"


def test_a_problem_file_is_found_beside_the_topology_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").touch()
    written(
        tmp_path,
        "code: {files: true}\nrun: {algorithm: dgd, iterations: 1, problem: {file: mine.py, name: Mine}}",
    )
    monkeypatch.chdir(tmp_path.parent)

    topology = load(Path(tmp_path.name) / "topology.yaml")

    assert topology.run.problem.file == (tmp_path / "mine.py").resolve()


def test_a_topology_survives_being_stored_as_json(tmp_path: Path) -> None:
    topology = load(
        written(tmp_path, "graph: {edges: [{from: bonn, to: aachen}, {from: aachen, to: heidelberg}]}")
    )

    assert Topology.model_validate_json(topology.model_dump_json()) == topology


def arguments(folder: Path, written_as: str) -> dict[str, Any]:
    """The problem's arguments as a file says them."""
    snippet = f"""
    run:
      algorithm: consensus
      iterations: 1
      problem: {{path: flaremesh.problems.consensus.Consensus, args: {written_as}}}
    """
    return load(written(folder, snippet)).run.problem.args


NUMBERS = {
    "1e-4": 1e-4,
    "1E5": 1e5,
    "-1.5e3": -1500.0,
    "1.e3": 1000.0,
    ".5": 0.5,
    "-.5": -0.5,
    "5.": 5.0,
    "+1": 1,
    "0": 0,
    "00.5": 0.5,
    "1_000": 1000,
    "0x1f": 31,
    "0o17": 15,
    "0b11": 3,
    "-.inf": -math.inf,
    "12345678901234567890": 12345678901234567890,
}
OTHERS = {
    "yes": True,
    "Off": False,
    "~": None,
    "": None,
    "2024-01-01": datetime.date(2024, 1, 1),
    "2024-01-01 12:30:00": datetime.datetime(2024, 1, 1, 12, 30),
    "{0: 1.0, 1: 8.5}": {0: 1.0, 1: 8.5},
}
TEXTS = ["y", "1e", "e5", "1.2.3", "08:30", "10.0.0.1", "1/3", "5%", "nan", "=", "<<", "-", "2024-1-1"]


@pytest.mark.parametrize(("number", "meant"), NUMBERS.items())
def test_a_number_is_what_python_writes_as_one(number: str, meant: float, tmp_path: Path) -> None:
    value = arguments(tmp_path, f"{{a: {number}}}")["a"]

    assert (value, type(value)) == (meant, type(meant))


def test_nan_is_a_number(tmp_path: Path) -> None:
    assert math.isnan(arguments(tmp_path, "{a: .nan}")["a"])


@pytest.mark.parametrize(("other", "meant"), OTHERS.items())
def test_truth_values_dates_and_mappings_of_numbers_are_pythons(
    other: str, meant: object, tmp_path: Path
) -> None:
    assert arguments(tmp_path, f"{{a: {other}}}") == {"a": meant}


@pytest.mark.parametrize(
    "text", [*TEXTS, *(f"'{text}'" for text in [*NUMBERS, *OTHERS]), "!!str 1e-4", "! 5"]
)
def test_everything_else_is_text_and_so_is_all_in_quotes(text: str, tmp_path: Path) -> None:
    assert arguments(tmp_path, f"{{a: {text}}}") == {"a": text.removeprefix("!!str ").strip("'! ")}


def test_an_explicit_tag_says_the_type(tmp_path: Path) -> None:
    args = arguments(tmp_path, "{a: !!float 3, b: !!int '5', c: !!map {}, d: !!seq [], e: !!bool no}")

    assert args == {"a": 3.0, "b": 5, "c": {}, "d": [], "e": False}
    assert isinstance(args["a"], float)


def test_options_of_an_algorithm_are_read_alike(tmp_path: Path) -> None:
    snippet = """
    run:
      algorithm: gtadam
      iterations: 1e3
      stepsize: 1e-3
      options: {epsilon: 1e-2}
      problem: {path: flaremesh.problems.consensus.Consensus}
    """

    run = load(written(tmp_path, snippet)).run

    assert (run.iterations, run.stepsize, run.options) == (1000, 1e-3, {"epsilon": 1e-2})


def test_a_merge_key_brings_in_what_is_not_written(tmp_path: Path) -> None:
    snippet = """
    sites:
    - &first {name: heidelberg, org: ukhd, gpus: 2}
    - <<: *first
      name: bonn
    - {name: aachen, <<: [{org: uka}, *first]}
    - <<: *first
      name: kiel
      <<: {org: uksh}
    """

    sites = load(written(tmp_path, snippet)).sites

    assert [(site.name, site.org, site.gpus) for site in sites] == [
        ("heidelberg", "ukhd", 2),
        ("bonn", "ukhd", 2),
        ("aachen", "uka", 2),
        ("kiel", "uksh", 2),
    ]


def test_merge_keys_go_through_each_other_and_quotes_take_their_meaning(tmp_path: Path) -> None:
    args = arguments(tmp_path, "{a: &a {x: 1, y: 1}, b: &b {<<: *a, y: 2}, c: {y: 3, <<: *b}, d: {'<<': 5}}")

    assert args == {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}, "d": {"<<": 5}}


ENCODINGS = {
    "UTF-8 with its mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16 of Windows": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "the other UTF-16": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "lines of Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "lines of old": lambda text: text.replace("\n", "\r").encode(),
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_what_an_editor_makes_of_a_file_does_not_matter(encode: Any, tmp_path: Path) -> None:
    edges = "heidelberg bonn\nbonn aachen\naachen heidelberg\n"
    path = written(tmp_path, "graph: {file: edges.txt}")
    (tmp_path / "edges.txt").write_text(edges)
    expected = load(path)

    path.write_bytes(encode(path.read_text()))
    (tmp_path / "edges.txt").write_bytes(encode(edges))

    assert load(path) == expected


@pytest.mark.parametrize(
    "edges",
    [
        "bonn,aachen,0.3\nheidelberg,bonn,2e-1\n",
        "from,to,weight\nbonn, aachen, 0.3\nheidelberg ,bonn,0.2\n,,\n",
        'bonn;aachen;0.3;\n"heidelberg";"bonn";"0.2"\n',
        "from\tto\tweight\nbonn\taachen\t0.3\nheidelberg\tbonn\t0.2",
        "bonn\u00a0aachen 0.3\n  heidelberg   bonn 0.2   # weak",
    ],
)
def test_an_edge_list_may_come_from_a_spreadsheet(edges: str, tmp_path: Path) -> None:
    (tmp_path / "edges.txt").write_text(edges)

    graph = load(written(tmp_path, "graph: {file: edges.txt}\nweights: explicit")).graph

    assert graph.model_dump()["edges"] == (
        {"from": "bonn", "to": "aachen", "weight": 0.3, "phase": 1},
        {"from": "heidelberg", "to": "bonn", "weight": 0.2, "phase": 1},
    )


def test_a_topology_may_be_written_as_json(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    expected = load(path)
    path.write_text(json.dumps(yaml.safe_load(path.read_text()), indent="\t"))

    assert load(path) == expected


IMAGES = [
    "flaremesh",
    "localhost/flaremesh",
    "registry:5000/x/y:TAG",
    "ghcr.io/lab/flare__mesh:1.0-RC_1",
    "registry.example.org/flaremesh:1234e56",
    f"flaremesh:1.0@sha256:{'0' * 64}",
]


@pytest.mark.parametrize("image", IMAGES)
def test_every_name_of_an_image_is_taken_as_it_is(image: str, tmp_path: Path) -> None:
    deploy = load(written(tmp_path, f"deploy: {{image: '{image}'}}")).deploy

    assert deploy is not None
    assert deploy.image == image


def test_sites_of_one_host_may_share_a_range_of_ports_that_is_wide_enough(tmp_path: Path) -> None:
    snippet = """
    sites:
    - {name: bonn, org: ukb, link: {host: localhost, ports: 8002-8004}}
    - {name: aachen, org: uka, link: {host: localhost, ports: 8002-8004}}
    """

    assert len(load(written(tmp_path, snippet)).sites) == 2


def test_ten_thousand_sites_are_read_in_seconds(tmp_path: Path) -> None:
    sites = ", ".join(f"{{name: site-{i}, org: o}}" for i in range(10_000))
    path = written(tmp_path, f"sites: [{sites}]")
    started = time.process_time()  # what else runs on the machine does not count

    assert len(load(path).sites) == 10_000
    assert time.process_time() - started < 5
