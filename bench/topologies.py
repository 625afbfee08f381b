"""The meshes that are measured."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from flaremesh.topology.schema import Topology

_PORTS = 2  # of a site
_LINK_PORTS = range(20_000, 32_000)  # below those that Linux gives to connections that go out


def topology_of(sites: int, hosts: Sequence[str] = ()) -> Topology:
    """A ring, or a pair; the weights are Metropolis'.

    Args:
        sites: how many.
        hosts: of the server and of each site; () for this machine's loopback.
    """
    server, *others = hosts or ("localhost", *["127.0.0.1"] * sites)
    first = _free_ports(_PORTS * sites)
    # the stock package takes the number of a site from its name
    addresses = {f"site-{n + 1}": (first + _PORTS * n, first + _PORTS * (n + 1) - 1) for n in range(sites)}
    return Topology.model_validate(
        {
            "apiVersion": "flaremesh/v1",
            "name": f"bench-{sites}",
            "server": {
                "host": server,
                "port": _free_port(),
                "org": "bench",
                "meet": {"port": _free_port()},
            },
            "admins": [{"email": "admin@bench.org", "org": "bench", "role": "project_admin"}],
            "sites": [
                {"name": name, "org": "bench", "link": {"host": host, "ports": f"{low}-{high}"}}
                for (name, (low, high)), host in zip(addresses.items(), others, strict=True)
            ],
            "graph": {"kind": "ring" if sites > 2 else "path"},
            "code": {"packages": ["bench"]},
            "run": {
                "algorithm": "consensus",
                "iterations": 1,
                "problem": {"path": "flaremesh.problems.consensus.Consensus"},
            },
        }
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row."""
    for first in _LINK_PORTS[::count]:
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first
    raise OSError("no ports are left for links")
