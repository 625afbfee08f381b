"""A mesh of which nothing is on this cluster."""

from pathlib import Path

from flaremesh.deploy.targets.kubernetes.target import KubernetesTarget
from flaremesh.topology.load import load

TOPOLOGY = load(Path(__file__).parents[2] / "provision" / "two-clusters.yaml")


def test_who_is_not_on_the_cluster_is_elsewhere_and_its_server_is_dialled_where_the_topology_says(
    tmp_path: Path,
):
    target = KubernetesTarget(TOPOLOGY, tmp_path)
    participants = target.participants()
    assert [p.name for p in participants if p.elsewhere] == ["server", "heidelberg", "bonn", "aachen"]
    assert not any(p.running or p.ready for p in participants)
    with target.server() as server:
        assert server == (TOPOLOGY.server.host, TOPOLOGY.server.port)
