"""Direct connections: whoever of two neighbours can reach the other one dials it."""

import errno
import socket
from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

from typing_extensions import override

from flaremesh.hosts import at, listening
from flaremesh.links.attempts import Attempts
from flaremesh.links.carrier import HEAD_START, Address, Carrier
from flaremesh.links.channel import tune
from flaremesh.links.errors import LinkError
from flaremesh.topology.links import LinkKind

Listen: TypeAlias = tuple[str, tuple[int, int]]
"""Host, and inclusive range of ports."""

_BACKLOG = 1024


class DirectCarrier(Carrier):
    """TCP connections; those that come in are the business of whoever has the socket that `bind` makes.

    Args:
        address: where neighbours dial this site; None if they cannot.
        diallers: the neighbours that do if they can.
        attempts: of the link.
    """

    kind = LinkKind.DIRECT

    def __init__(
        self, address: Address | None, diallers: Collection[str] = (), attempts: Attempts | None = None
    ):
        self._attempts = attempts or Attempts()
        self._addresses: Mapping[str, Address] = {}
        self._diallers = diallers if address is not None else ()
        self.address = address

    @override
    def open(self, addresses: Mapping[str, Address]) -> None:
        self._addresses = addresses

    @override
    def inability(self, peer: str) -> str | None:
        return None if self.address or peer in self._addresses else "neither has a link address"

    @override
    def head_start(self, peer: str, *, leads: bool) -> float | None:
        if peer not in self._addresses:
            return None
        return 0.0 if leads or peer not in self._diallers else HEAD_START

    @override
    def dial(self, peer: str, timeout: float) -> socket.socket:
        try:
            stream = self._attempts.connect(self._addresses[peer], timeout)
        except (ValueError, OverflowError) as error:  # the peer may have announced any address
            raise OSError(f"that is no address ({error})") from error
        tune(stream)
        return stream

    @override
    def whereabouts(self, peer: str) -> str:
        host, port = self._addresses[peer]
        return f" at {at(host, port)}"

    @override
    def close(self) -> None:
        """Nothing: the port is another's."""


def bind(host: str, ports: tuple[int, int]) -> socket.socket:
    """A socket where neighbours dial in.

    Args:
        host: under which they do; with localhost or a loopback address, only this machine can.
        ports: inclusive range, of which the first free one is taken.

    Raises:
        LinkError: no port of the range is free, or this machine has no such address.
    """
    for port in _range(ports):
        try:
            return listening(host, port, _BACKLOG)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise LinkError(f"no neighbour can dial in at {host}: {error.strerror or error}") from error
    taken = f"port {ports[0]} is" if ports[0] == ports[1] else f"all ports {ports[0]}-{ports[1]} are"
    raise LinkError(
        f"{taken} taken: no neighbour can dial in. Every run at a site takes a port; widen its link.ports"
    )


def _range(ports: tuple[int, int]) -> Iterator[int]:
    yield from range(ports[0], ports[1] + 1)
