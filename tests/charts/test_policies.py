"""What the rendered NetworkPolicies let through, worked out by Kubernetes' rules."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connections import Pod, may_connect, pod_of
from installation import Installation
from rendering import Object, Rendered, merged, render

from flaremesh.provision.releases import releases, values_of
from flaremesh.topology.load import load
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology

OUTSIDE = Pod(address="198.51.100.7")
NAMES = Pod("kube-system", {"k8s-app": "kube-dns"})
LINK, SERVER, MEETING, METRICS = 8102, 8002, 8003, 9464

Cluster = dict[str, tuple[str, Rendered]]


@pytest.fixture(scope="module")
def cluster(one_cluster: Installation) -> Cluster:
    return {name: (f"digits-{name}", one_cluster.render(name)) for name in one_cluster.participants}


def policies(cluster: Cluster) -> list[tuple[str, Object]]:
    return [(ns, policy) for ns, release in cluster.values() for policy in release.of("NetworkPolicy")]


def pods(cluster: Cluster) -> dict[str, Pod]:
    return {name: pod_of(release, namespace) for name, (namespace, release) in cluster.items()}


def connections(cluster: Cluster, port: int) -> set[tuple[str, str]]:
    rules, all_pods = policies(cluster), pods(cluster)
    return {
        (source, target)
        for source in all_pods
        for target in all_pods
        if may_connect(all_pods[source], all_pods[target], port, rules)
    }


def test_neighbours_and_nobody_else_may_link(cluster: Cluster) -> None:
    ring = ("heidelberg", "bonn", "aachen", "dresden", "heidelberg")
    edges = set(itertools.pairwise(ring))
    for port in (LINK, LINK + 3):
        assert connections(cluster, port) == edges | {(b, a) for a, b in edges}
    assert connections(cluster, LINK + 4) == connections(cluster, LINK - 1) == set()


def test_sites_may_dial_the_server_which_dials_nobody(cluster: Cluster) -> None:
    assert connections(cluster, SERVER) == {(site, "server") for site in cluster if site != "server"}


@pytest.mark.parametrize("links", ["auto", "relay"])
@pytest.mark.parametrize(
    "graph",
    [
        {"kind": "ring", "directed": True},
        {"directed": True, "edges": [{"from": "bonn", "to": "ulm"}, {"from": "ulm", "to": "kiel"}]},
    ],
    ids=["directed ring", "path"],
)
def test_policies_are_the_edges_of_the_graph(
    graph: dict[str, Any], links: str, two_clusters: Installation
) -> None:
    topology = _directed(graph, links)
    cluster = _installed(topology, two_clusters)
    assert connections(cluster, LINK) == (set(build(topology).graph.edges) if links == "auto" else set())
    assert len(connections(cluster, SERVER)) == 3


def _installed(topology: Topology, other: Installation) -> Cluster:
    """A topology's releases, with a kit of another one."""
    kit = other.values("bonn")["kit"]
    cluster: Cluster = {}
    for release in releases(topology):
        values = values_of(topology, build(topology), release.name).model_dump(mode="json", by_alias=True)
        rendered = render(release.chart, merged(values, {"kit": kit}), release.name, release.namespace)
        cluster[release.name] = (release.namespace, rendered)
    return cluster


def test_sites_that_nobody_dials_meet_at_the_server_alone(two_clusters: Installation) -> None:
    topology = _meeting({})
    cluster = _installed(topology, two_clusters)
    sites = {site.name for site in topology.sites}
    assert connections(cluster, MEETING) == connections(cluster, SERVER) == {(n, "server") for n in sites}
    assert connections(cluster, LINK) == set()
    server = cluster["server"][1]
    assert {"name": "meet", "port": MEETING, "targetPort": "meet"} in server.one("Service")["spec"]["ports"]
    assert pods(cluster)["server"].ports["meet"] == MEETING
    rules = policies(cluster)
    admin = Pod("mesh-server", {"app.kubernetes.io/component": "admin"})
    for stranger in (OUTSIDE, admin, *_impostors(cluster)):
        assert not may_connect(stranger, pods(cluster)["server"], MEETING, rules)


def test_a_meeting_point_elsewhere_is_reached_where_it_is(two_clusters: Installation) -> None:
    for host, place in (
        (
            "point.meeting.svc",
            Pod("meeting", {"flaremesh.dev/mesh": "mesh", "flaremesh.dev/participant": "point"}),
        ),
        ("192.0.2.9", Pod(address="192.0.2.9")),
    ):
        cluster = _installed(_meeting({"host": host, "port": 443}), two_clusters)
        site = pods(cluster)["bonn"]
        assert may_connect(site, place, 443, policies(cluster)), host
        assert not may_connect(site, place, SERVER, policies(cluster))
        assert not may_connect(site, OUTSIDE, 443, policies(cluster))
        assert "meet" not in pods(cluster)["server"].ports


def _meeting(meet: dict[str, Any]) -> Topology:
    document = _directed({"kind": "ring"}, "auto").model_dump(mode="json", by_alias=True)
    document["server"] |= {"meet": meet}
    document |= {"name": "mesh", "sites": [site | {"link": None} for site in document["sites"]]}
    return Topology.model_validate(document)


def _directed(graph: dict[str, Any], links: str) -> Topology:
    base = load(Path(__file__).parents[2] / "provision/directed-ring3.yaml")
    sites = [
        {"name": n, "org": "o", "link": {"host": f"{n}.mesh-{n}.svc", "ports": "8102-8105"}}
        for n in ("bonn", "ulm", "kiel")
    ]
    document = base.model_dump(mode="json", by_alias=True)
    server = {"host": "server.mesh-server.svc", "port": SERVER, "org": "o"}
    document |= {"server": server, "sites": sites, "graph": graph, "weights": "push-sum"}
    document["run"] |= {"links": links}
    return Topology.model_validate(document)


def test_nothing_is_let_in_or_out_besides(cluster: Cluster) -> None:
    rules = policies(cluster)
    strangers = [OUTSIDE, Pod("default", {}), Pod("digits-bonn", {}), *_impostors(cluster)]
    for name, pod in pods(cluster).items():
        for port in (22, 443, SERVER, LINK, METRICS):
            assert not any(may_connect(stranger, pod, port, rules) for stranger in strangers), name
            assert not any(may_connect(pod, stranger, port, rules) for stranger in strangers[:3]), name


def _impostors(cluster: Cluster) -> Iterator[Pod]:
    """Pods of elsewhere and of another mesh with the labels of participants."""
    for pod in pods(cluster).values():
        yield Pod("default", pod.labels)
        yield Pod(pod.namespace, {"flaremesh.dev/participant": pod.labels["flaremesh.dev/participant"]})


def test_every_participant_may_ask_for_names(cluster: Cluster) -> None:
    for pod in pods(cluster).values():
        for protocol in ("UDP", "TCP"):
            assert may_connect(pod, NAMES, 53, policies(cluster), protocol)
        assert not may_connect(pod, NAMES, 443, policies(cluster))


def test_another_name_server_takes_the_place_of_the_usual_one(site: dict[str, Any]) -> None:
    dns = {"namespace": "dns", "labels": {"k8s-app": None, "app": "names"}}
    release = render("flaremesh-site", merged(site, {"networkPolicy": {"dns": dns}}))
    rules = [("ring-bonn", policy) for policy in release.of("NetworkPolicy")]
    pod = pod_of(release, "ring-bonn")
    assert may_connect(pod, Pod("dns", {"app": "names"}), 53, rules, "UDP")
    assert not may_connect(pod, NAMES, 53, rules, "UDP")


def test_names_may_be_asked_of_a_cache_on_the_node_which_is_no_pod_to_a_selector(
    cluster: Cluster, site: dict[str, Any]
) -> None:
    cache, cloud_dns = Pod(address="169.254.20.10"), Pod(address="169.254.169.254")
    for pod in pods(cluster).values():
        for protocol in ("UDP", "TCP"):
            assert may_connect(pod, cache, 53, policies(cluster), protocol)
        assert not may_connect(pod, cache, 80, policies(cluster))
        assert not may_connect(pod, cloud_dns, 53, policies(cluster), "UDP")
    dns = {"cidrs": ["169.254.169.254/32"]}
    release = render("flaremesh-site", merged(site, {"networkPolicy": {"dns": dns}}))
    rules = [("ring-bonn", policy) for policy in release.of("NetworkPolicy")]
    pod = pod_of(release, "ring-bonn")
    assert may_connect(pod, cloud_dns, 53, rules, "UDP")
    assert may_connect(pod, NAMES, 53, rules, "UDP")
    assert not may_connect(pod, cache, 53, rules, "UDP")
    assert not may_connect(pod, cloud_dns, 80, rules), "the node's metadata, keys of the cloud among them"


def test_a_scraper_is_let_in_only_where_it_is_named(one_cluster: Installation) -> None:
    scraper = Pod("monitoring", {"app.kubernetes.io/name": "prometheus"})
    other = Pod("monitoring", {})
    for metrics, admitted in (
        ({"scraperNamespace": ""}, set()),
        ({"scraperNamespace": "monitoring"}, {"scraper", "other"}),
        ({"scraperNamespace": "monitoring", "scraperLabels": scraper.labels}, {"scraper"}),
    ):
        release = one_cluster.render("bonn", further={"metrics": metrics})
        cluster = {"bonn": ("digits-bonn", release)}
        pod = pods(cluster)["bonn"]
        found = {
            name
            for name, source in {"scraper": scraper, "other": other}.items()
            if may_connect(source, pod, METRICS, policies(cluster))
        }
        assert found == admitted
        assert not may_connect(scraper, pod, LINK, policies(cluster))


def test_the_pod_of_helm_test_reaches_its_participant_and_nothing_else(cluster: Cluster) -> None:
    rules, all_pods = policies(cluster), pods(cluster)
    for name, (namespace, release) in cluster.items():
        (test,) = (Pod(namespace, pod["metadata"]["labels"]) for pod in release.of("Pod"))
        assert may_connect(test, NAMES, 53, rules, "UDP")
        for other, pod in all_pods.items():
            assert may_connect(test, pod, METRICS, rules) == (other == name)
            assert not may_connect(pod, test, METRICS, rules)
        assert not may_connect(test, OUTSIDE, 443, rules)


def test_an_admin_beside_the_server_may_submit_runs(cluster: Cluster) -> None:
    labels = {"app.kubernetes.io/component": "admin"}
    server = pods(cluster)["server"]
    assert may_connect(Pod("digits-server", labels), server, SERVER, policies(cluster))
    assert not may_connect(Pod("digits-bonn", labels), server, SERVER, policies(cluster))


def test_further_rules_are_added(site: dict[str, Any]) -> None:
    store = {"to": [{"ipBlock": {"cidr": "192.0.2.2/32"}}], "ports": [{"port": 443}]}
    release = render("flaremesh-site", merged(site, {"networkPolicy": {"extraEgress": [store]}}))
    rules = [("ring-bonn", policy) for policy in release.of("NetworkPolicy")]
    pod = pod_of(release, "ring-bonn")
    assert may_connect(pod, Pod(address="192.0.2.2"), 443, rules)
    assert not may_connect(pod, Pod(address="192.0.2.3"), 443, rules)


def test_policies_can_be_left_to_another_tool(site: dict[str, Any]) -> None:
    release = render("flaremesh-site", merged(site, {"networkPolicy": {"enabled": False}}))
    assert release.of("NetworkPolicy") == []
    assert "WARNING: there are no NetworkPolicies" in release.notes


def test_across_clusters_a_site_reaches_addresses_at_the_ports_of_its_neighbours(
    two_clusters: Installation,
) -> None:
    release = two_clusters.render("heidelberg", "hd")
    rules = [("hd", policy) for policy in release.of("NetworkPolicy")]
    pod, node, other = pod_of(release, "hd"), Pod(address="203.0.113.21"), OUTSIDE
    assert may_connect(pod, node, 30110, rules)
    assert not may_connect(pod, other, 30110, rules)
    assert may_connect(pod, other, 30002, rules), "a name may stand for any address"
    assert may_connect(other, pod, 30113, rules), "nodes hide who dials"
    assert not may_connect(other, pod, 9464, rules)
    assert not may_connect(pod, node, 443, rules)


def test_participants_of_one_cluster_may_use_the_ports_of_its_nodes(two_clusters: Installation) -> None:
    """Nodes turn their own ports into those of the pod before a policy is asked."""
    cluster = {
        name: (f"two-clusters-{name}", two_clusters.render(name, f"two-clusters-{name}"))
        for name in ("server", "heidelberg", "bonn")
    }
    assert connections(cluster, 30002) == {("heidelberg", "server"), ("bonn", "server")}
    assert connections(cluster, 30110) == {("heidelberg", "bonn"), ("bonn", "heidelberg")}
