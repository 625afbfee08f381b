"""The NetworkPolicies, tried from inside the pods."""

import socket
import threading
from collections.abc import Iterator

import pytest
from cluster import call, connects, kubectl, listening
from installed_mesh import Mesh

STRANGER = "flaremesh-stranger"
PORT = 8105  # the last of every site's range

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: stranger
  labels: {{flaremesh.dev/mesh: {mesh}, flaremesh.dev/participant: bonn}}
spec:
  containers:
    - name: stranger
      image: {image}
      imagePullPolicy: IfNotPresent
      command: [python, -m, http.server, "8000"]
"""


@pytest.fixture(scope="module")
def stranger(mesh: Mesh) -> Iterator[str]:
    """A pod of another namespace, without policies; it bears the labels of a neighbour."""
    call("kubectl", "delete", "namespace", STRANGER, "--ignore-not-found")
    call("kubectl", "create", "namespace", STRANGER)
    image = mesh.topology.deploy.image
    kubectl(STRANGER, "apply", "-f", "-", text=POD.format(mesh=mesh.topology.name, image=image))
    kubectl(STRANGER, "wait", "pod/stranger", "--for=condition=Ready", "--timeout=60s")
    yield kubectl(STRANGER, "get", "pod", "stranger", "--output", "jsonpath={.status.podIP}")
    call("kubectl", "delete", "namespace", STRANGER, "--wait=false")


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[str, int]]:
    """A listener on this machine, which is outside the cluster."""
    gateway = call(
        *("docker", "network", "inspect", "kind", "--format"),
        "{{range .IPAM.Config}}{{.Gateway}} {{end}}",
    )
    addresses = [a for a in gateway.split() if "." in a]
    if not addresses:  # a network that was made by hand names no gateway
        subnet = call(
            "docker", "network", "inspect", "kind", "--format", "{{range .IPAM.Config}}{{.Subnet}}{{end}}"
        )
        addresses = [subnet.split("/")[0].rsplit(".", 1)[0] + ".1"]
    with socket.create_server((addresses[0], 0)) as listener:
        threading.Thread(target=_accept, args=[listener], daemon=True).start()
        yield addresses[0], listener.getsockname()[1]


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


def host(mesh: Mesh, site: str) -> str:
    return f"{site}.{mesh.namespaces[site]}.svc"


def test_neighbours_reach_the_link_ports_of_a_site_and_nobody_else_does(mesh: Mesh, stranger: str):
    with listening(mesh.namespaces["aachen"], "aachen-0", PORT):
        reach = {
            site: connects(mesh.namespaces[site], f"{site}-0", host(mesh, "aachen"), PORT)
            for site in ("bonn", "dresden", "heidelberg")
        }
        assert reach == {"bonn": True, "dresden": True, "heidelberg": False}
        assert not connects(STRANGER, "stranger", host(mesh, "aachen"), PORT)


def test_a_neighbour_reaches_no_port_outside_the_range(mesh: Mesh):
    with listening(mesh.namespaces["aachen"], "aachen-0", PORT + 1):
        assert not connects(mesh.namespaces["bonn"], "bonn-0", host(mesh, "aachen"), PORT + 1)


def test_sites_reach_the_server_and_a_stranger_does_not(mesh: Mesh, stranger: str):
    for site in mesh.topology.sites:
        assert connects(mesh.namespaces[site.name], f"{site.name}-0", host(mesh, "server"), 8002)
    assert not connects(STRANGER, "stranger", host(mesh, "server"), 8002)


def test_the_server_reaches_no_site(mesh: Mesh):
    with listening(mesh.namespaces["aachen"], "aachen-0", PORT):
        assert not connects(mesh.namespaces["server"], "server-0", host(mesh, "aachen"), PORT)


def test_a_site_reaches_no_pod_of_a_foreign_namespace(mesh: Mesh, stranger: str):
    kubectl(STRANGER, "exec", "stranger", "--", "true")
    assert connects(STRANGER, "stranger", stranger, 8000)
    assert not connects(mesh.namespaces["bonn"], "bonn-0", stranger, 8000)


def test_a_site_reaches_nothing_outside_the_cluster(mesh: Mesh, stranger: str, outside: tuple[str, int]):
    assert connects(STRANGER, "stranger", *outside)
    assert not connects(mesh.namespaces["bonn"], "bonn-0", *outside)


def test_a_site_does_not_reach_the_api_of_the_cluster(mesh: Mesh, stranger: str):
    assert connects(STRANGER, "stranger", "kubernetes.default.svc", 443)
    assert not connects(mesh.namespaces["bonn"], "bonn-0", "kubernetes.default.svc", 443)


def test_nobody_scrapes_a_site_that_names_no_scraper(mesh: Mesh, stranger: str):
    assert not connects(STRANGER, "stranger", host(mesh, "bonn"), 9464)
