"""Ports of this machine that no other mesh takes, in this test process or in another."""

import socket
from contextlib import ExitStack

_LINK_PORTS = range(20_000, 32_000)  # below those that Linux gives to connections that go out


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class LinkPorts:
    """Ranges of ports for the links of a mesh's sites, claimed until they are released.

    The claim is the UDP port of the first one's number: one process at a time has it, and its end frees it.

    Args:
        sites: how many ranges.
        each: ports of a range.
    """

    def __init__(self, sites: int, each: int = 4):
        self._claim = socket.socket(type=socket.SOCK_DGRAM)
        for first in _LINK_PORTS[:: sites * each]:
            try:
                self._claim.bind(("", first))
            except OSError:
                continue
            if _all_free(range(first, first + sites * each)):
                self.ranges = [(low, low + each - 1) for low in range(first, first + sites * each, each)]
                return
            self._claim.close()
            self._claim = socket.socket(type=socket.SOCK_DGRAM)
        raise OSError("no ports are left for links")

    def release(self) -> None:
        self._claim.close()


def _all_free(ports: range) -> bool:
    with ExitStack() as probes:
        try:
            for port in ports:
                probes.enter_context(socket.create_server(("", port)))
        except OSError:
            return False
    return True
