"""Namespaces of participants, and how NetworkPolicies name their peers."""

import pytest

from flaremesh.provision.placement import (
    PlacementError,
    in_neighbour,
    may_be_elsewhere,
    namespace_of,
    out_neighbour,
    server_peer,
)


def site(name: str, host: str | None = None) -> dict:
    link = {"link": {"host": host, "ports": "8102-8105"}} if host else {}
    return {"name": name, "org": "o"} | link


def server(host: str) -> dict:
    return {"host": host, "org": "o"}


INSIDE = server("server.mesh-server.svc")


@pytest.mark.parametrize("suffix", ["", ".cluster.local"])
def test_a_service_as_host_names_the_namespace(make_topology, suffix: str) -> None:
    topology = make_topology(server=INSIDE, sites=[site("bonn", f"bonn.clinic.svc{suffix}"), site("ulm")])
    assert namespace_of(topology, "bonn") == "clinic"
    assert namespace_of(topology, "server") == "mesh-server"


def test_without_a_service_a_participant_has_a_namespace_of_its_own(make_topology) -> None:
    topology = make_topology(name="ring", sites=[site("bonn", "192.0.2.1"), site("ulm")])
    assert [namespace_of(topology, name) for name in ("server", "bonn", "ulm")] == [
        "ring-server",
        "ring-bonn",
        "ring-ulm",
    ]


def test_the_topology_may_choose_one_namespace_for_all(make_topology) -> None:
    topology = make_topology(sites=[site("bonn"), site("ulm")], deploy={"namespace": "mesh"})
    assert {namespace_of(topology, name) for name in ("server", "bonn", "ulm")} == {"mesh"}


def test_a_long_namespace_is_cut_where_a_name_may_end(make_topology) -> None:
    name = "m" * 62
    topology = make_topology(name=name, sites=[site("bonn"), site("ulm")])
    assert namespace_of(topology, "bonn") == name


def test_the_service_of_another_is_refused(make_topology) -> None:
    topology = make_topology(sites=[site("bonn", "clinic.bonn.svc"), site("ulm")])
    with pytest.raises(PlacementError, match=r"bonn has the host clinic\.bonn\.svc.*write bonn\.bonn\.svc"):
        namespace_of(topology, "bonn")


def test_a_service_outside_of_the_chosen_namespace_is_refused(make_topology) -> None:
    sites = [site("bonn", "bonn.clinic.svc"), site("ulm")]
    topology = make_topology(sites=sites, deploy={"namespace": "mesh"})
    with pytest.raises(PlacementError, match=r"deploy\.namespace is mesh: write bonn\.mesh\.svc, or remove"):
        namespace_of(topology, "bonn")


def test_within_a_cluster_a_peer_is_known_by_its_namespace(make_topology) -> None:
    topology = make_topology(server=INSIDE, sites=[site("bonn", "bonn.clinic.svc"), site("ulm")])
    bonn, ulm = (in_neighbour(topology, name) for name in ("bonn", "ulm"))
    assert (bonn.namespace, bonn.cidrs) == ("clinic", ())
    assert (ulm.namespace, ulm.cidrs) == ("ring-ulm", ()), "it dials a Service, so it is in the cluster"
    assert server_peer(topology).namespace == "mesh-server"


def test_outside_a_dialled_address_is_known_exactly(make_topology) -> None:
    topology = make_topology(server=server("198.51.100.1"), sites=[site("bonn", "192.0.2.1"), site("ulm")])
    peer = out_neighbour(topology, topology.sites[0])
    assert peer.cidrs == ("192.0.2.1/32",)
    assert (peer.first_port, peer.last_port) == (8102, 8105)
    assert server_peer(topology).cidrs == ("198.51.100.1/32",)


def test_who_is_known_by_an_address_may_be_in_the_same_cluster_too(make_topology) -> None:
    topology = make_topology(
        name="ring", server=server("198.51.100.1"), sites=[site("bonn", "192.0.2.1"), site("ulm")]
    )
    peers = server_peer(topology), out_neighbour(topology, topology.sites[0]), in_neighbour(topology, "ulm")
    assert [peer.namespace for peer in peers] == ["ring-server", "ring-bonn", "ring-ulm"]


@pytest.mark.parametrize(
    ("host", "elsewhere"),
    [
        ("server.mesh-server.svc", {"ulm"}),  # ulm has an address of its own, bonn dials a Service
        ("192.0.2.1", {"server", "bonn", "ulm"}),
    ],
)
def test_who_has_no_service_in_the_cluster_may_be_elsewhere(make_topology, host: str, elsewhere) -> None:
    topology = make_topology(server=server(host), sites=[site("bonn"), site("ulm", "ulm.example.org")])
    assert {name for name in ("server", "bonn", "ulm") if may_be_elsewhere(topology, name)} == elsewhere


def test_outside_a_name_and_who_dials_may_have_any_address(make_topology) -> None:
    topology = make_topology(sites=[site("bonn", "bonn.example.org"), site("ulm", "192.0.2.2")])
    anywhere = ("0.0.0.0/0", "::/0")
    assert out_neighbour(topology, topology.sites[0]).cidrs == anywhere
    assert in_neighbour(topology, "bonn").cidrs == anywhere
    assert in_neighbour(topology, "ulm").cidrs == anywhere, "nodes hide who dials"
