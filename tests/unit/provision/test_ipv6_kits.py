"""What provisioning makes of hosts that are IPv6 addresses."""

import ipaddress
import json
from pathlib import Path

import pytest
from cryptography import x509

from flaremesh.p2p import charter
from flaremesh.p2p.nvflare.ipv6_names import host_of
from flaremesh.provision.kits import provision
from flaremesh.provision.placement import in_neighbour, out_neighbour, server_peer

SERVER, BONN = "2001:db8::5", "2001:db8::8"


@pytest.fixture(scope="module")
def topology(make_topology):
    return make_topology(
        server={"host": "2001:DB8:0::5", "org": "consortium", "names": ["::1", "mesh.example.org"]},
        sites=[
            {"name": "bonn", "org": "o", "link": {"host": BONN, "ports": "8102-8105"}},
            {"name": "ulm", "org": "o"},
        ],
    )


@pytest.fixture(scope="module")
def kits(tmp_path_factory, topology) -> Path:
    folder = tmp_path_factory.mktemp("mesh")
    provision(topology, folder)
    return folder / "kits"


def test_sites_and_admins_dial_the_server_at_its_address(kits):
    client = json.loads((kits / "ulm/startup/fed_client.json").read_text())
    host, port = client["servers"][0]["service"]["target"].split(":")
    assert (host_of(host), port) == (SERVER, "8002")
    admin = json.loads((kits / "lead@example.org/startup/fed_admin.json").read_text())["admin"]
    assert (host_of(admin["host"]), admin["port"]) == (SERVER, 8002)


def test_the_servers_certificate_is_for_its_addresses(kits):
    pem = (kits / "server/startup/server.crt").read_bytes()
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    addresses = names.value.get_values_for_type(x509.IPAddress)
    assert addresses == [ipaddress.ip_address(SERVER), ipaddress.ip_address("::1")]


def test_a_kit_says_where_its_neighbour_is(kits):
    peer = charter.read(kits / "ulm/startup").peers["bonn"]
    assert (peer.host, peer.ports) == (BONN, (8102, 8105))


def test_policies_let_out_to_the_addresses_and_in_from_both_families(topology):
    assert server_peer(topology).cidrs == (f"{SERVER}/128",)
    assert out_neighbour(topology, topology.sites[0]).cidrs == (f"{BONN}/128",)
    assert in_neighbour(topology, "ulm").cidrs == ("0.0.0.0/0", "::/0")
