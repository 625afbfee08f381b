"""NVFlare's processes meet at IPv6 addresses."""

import socket

import pytest
from nvflare.apis.utils.format_check import name_check
from nvflare.fuel.f3.drivers import grpc_driver
from nvflare.fuel.f3.drivers.net_utils import encode_url, parse_url

from flaremesh.p2p.nvflare import ipv6
from flaremesh.p2p.nvflare.ipv6_names import host_of, name_for

ADDRESSES = ["::1", "2001:db8::1", "fd00:1:2:3:4:5:6:7", "::"]


@pytest.fixture(autouse=True)
def _afterwards(monkeypatch):
    """What is replaced in NVFlare comes back."""
    for module in (grpc_driver, ipv6.net_utils, ipv6.aio_grpc_driver):
        monkeypatch.setattr(module, "get_address", module.get_address)


def address(target, scheme="grpc"):
    """What gRPC is given for a target in NVFlare's settings."""
    url = f"{scheme}://{target}"
    assert encode_url(parse_url(url)) == url
    return grpc_driver.get_address(parse_url(url))


@pytest.mark.parametrize("host", ADDRESSES)
def test_an_address_survives_nvflares_settings(host):
    ipv6.admit()
    name = name_for(host)
    invalid, why = name_check(name, "host_name")
    assert not invalid, why
    assert host_of(name) == host
    assert f"{name}:8002".split(":") == [name, "8002"]
    if host != "::":
        assert address(f"{name}:8002") == f"[{host}]:8002"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "192.0.2.1",
        "mesh.example.org",
        "ipv6-literal.net",
        "x.ipv6-literal.net",
        "a-b.ipv6-literal.net",
    ],
)
def test_other_hosts_stay_what_they_are(host):
    ipv6.admit()
    assert host_of(name_for(host)) == name_for(host) == host
    assert address(f"{host}:8002") == f"{host}:8002"


def test_where_nvflare_says_all_addresses_both_families_are_meant(monkeypatch):
    ipv6.admit()
    assert address("0:8002") == "[::]:8002"
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    ipv6.admit()
    assert address("0:8002") == "0.0.0.0:8002"
