"""A mesh whose hosts are IPv6 addresses: server, links and doctor dial them."""

import json
import socket

import psutil
import pytest
from running_mesh import running_mesh, wait_until

HERE = "::1"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    try:
        socket.create_server((HERE, 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback address: {error}")
    with running_mesh(tmp_path_factory.mktemp("mesh"), host=HERE) as mesh:
        yield mesh


def test_a_mesh_at_an_ipv6_address_runs_over_direct_links(mesh):
    result = mesh.run("six")
    values = {site: outcome.metrics["value"] for site, outcome in result.sites.items()}
    assert values == pytest.approx(dict.fromkeys(values, sum(values.values()) / len(values)))
    names = {site.name for site in mesh.topology.sites}
    assert {site: dict(outcome.links) for site, outcome in result.sites.items()} == {
        site: dict.fromkeys(names - {site}, "direct") for site in names
    }


def test_the_sites_dial_the_server_there(mesh):
    port = mesh.topology.server.port
    for site in mesh.topology.sites:
        dialled = {
            connection.raddr.ip
            for connection in mesh.process(site.name).net_connections("tcp")
            if connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port == port
        }
        assert dialled == {HERE}


def test_doctor_tries_the_edges_at_that_address(mesh):
    wait_until(lambda: not any(mesh.missing(site.name) for site in mesh.topology.sites), 30)
    reports = [json.loads(mesh.get(site.name, "/doctor?report")[1]) for site in mesh.topology.sites]
    edges = [edge for report in reports for edge in report["edges"]]
    assert edges
    assert all(edge["ok"] and edge["address"].startswith(f"[{HERE}]:") for edge in edges), edges
