from pathlib import Path

import pytest
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
