"""What kits say about their participant, in a document that the root has signed."""

import json
from pathlib import Path

import pytest

from flaremesh.p2p.charter import CHARTER, Charter, Code, Peer, read
from flaremesh.provision.kits import provision
from flaremesh.signatures import SignatureError
from flaremesh.topology.links import LinkKind

LINKED = [
    {"name": "bonn", "org": "hospitals", "link": {"host": "bonn.example.org", "ports": "8102-8105"}},
    {"name": "kiel", "org": "hospitals"},
    {"name": "ulm", "org": "hospitals"},
]
CHAIN = {"directed": True, "edges": [{"from": "kiel", "to": "bonn"}, {"from": "bonn", "to": "ulm"}]}
RUN = {
    "algorithm": "consensus",
    "iterations": 10,
    "stepsize": 0.1,
    "problem": {"path": "flaremesh.problems.consensus.Consensus"},
}


def charter(out: Path, name: str) -> Charter:
    return read(out / "kits" / name / "startup")


@pytest.mark.parametrize("links", ["auto", "direct", "relay"])
def test_a_site_may_share_edges_with_its_neighbours_by_the_carriers_that_they_have(
    tmp_path: Path, make_topology, links: str
) -> None:
    topology = make_topology(sites=LINKED, graph=CHAIN, weights="push-sum", run=RUN | {"links": links})
    provision(topology, tmp_path)  # with one address: nobody dials ulm, which dials bonn
    relay = () if links == "direct" else (LinkKind.RELAY,)
    address = {"host": "bonn.example.org", "ports": (8102, 8105)}
    assert charter(tmp_path, "bonn").peers == {
        "kiel": Peer(sends=False, receives=True, carriers=(LinkKind.DIRECT, *relay)),
        "ulm": Peer(sends=True, receives=False, carriers=(LinkKind.DIRECT, *relay)),
    }
    assert charter(tmp_path, "kiel").peers == {
        "bonn": Peer(sends=True, receives=False, carriers=(LinkKind.DIRECT, *relay), **address)
    }
    assert charter(tmp_path, "ulm").peers == {
        "bonn": Peer(sends=False, receives=True, carriers=(LinkKind.DIRECT, *relay), **address)
    }
    places = {name: (charter(tmp_path, name).host, charter(tmp_path, name).ports) for name in ("bonn", "ulm")}
    assert places == {"bonn": tuple(address.values()), "ulm": (None, None)}


def test_a_graph_that_changes_has_the_neighbours_of_all_its_phases(tmp_path: Path, make_topology) -> None:
    provision(make_topology("a", "b", "c", "d", graph={"kind": "one-peer-exponential"}), tmp_path)
    directions = {name: (peer.sends, peer.receives) for name, peer in charter(tmp_path, "a").peers.items()}
    assert directions == {"b": (True, False), "c": (True, True), "d": (False, True)}


@pytest.mark.parametrize("name", ["server", "lead@example.org"])
def test_who_is_no_site_has_no_peers(mesh: Path, name: str) -> None:
    assert charter(mesh, name) == Charter(mesh="ring", participant=name)


def test_every_kit_says_what_code_may_run_and_which_certificates_are_revoked(
    tmp_path: Path, make_topology
) -> None:
    provision(
        make_topology(
            code={"packages": ["faulty"], "files": True}, certificates={"revoked": [17, "0x2a", "9"]}
        ),
        tmp_path,
    )
    for name in ("server", "bonn", "lead@example.org"):
        found = charter(tmp_path, name)
        assert (found.code.packages, found.code.files) == (("faulty",), True)
        # with the serial number of a site's certificate, that of its certificate for runs
        assert found.revoked == ("9", "10", "17", "18", "42", "43")


def test_a_charter_that_somebody_changed_is_none(tmp_path: Path, make_topology) -> None:
    provision(make_topology(), tmp_path)
    file = tmp_path / "kits/bonn/startup" / CHARTER
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"content": document["content"].replace("ulm", "eve")}))
    with pytest.raises(SignatureError):
        charter(tmp_path, "bonn")


def test_code_is_forbidden_unless_the_file_allows_it(mesh: Path) -> None:
    assert charter(mesh, "bonn").code == Code()
