"""Direct connections: whoever of two neighbours can reach the other one dials it."""

import socket
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from typing_extensions import override

from flaremesh.links.carrier import HEAD_START, Address, Carrier
from flaremesh.links.channel import tune
from flaremesh.links.errors import LinkError
from flaremesh.links.reception import Reception
from flaremesh.topology.links import LinkKind

Listen: TypeAlias = tuple[str, tuple[int, int]]
"""Host, and inclusive range of ports."""

_BACKLOG = 1024


class DirectCarrier(Carrier):
    """TCP connections.

    Args:
        reception: of those that come in.
        listen: host under which neighbours dial, and inclusive range of ports, of which the first free one is
            taken; with localhost or 127.*, only this machine can. None if neighbours cannot dial.

    Raises:
        LinkError: no port of the range is free.
    """

    kind = LinkKind.DIRECT

    def __init__(self, reception: Reception, listen: Listen | None):
        self._addresses: Mapping[str, Address] = {}
        if listen is not None:
            listening = _bind(*listen)
            self.address = listen[0], int(listening.getsockname()[1])
            reception.listen(listening)

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
        return 0.0 if leads or self.address is None else HEAD_START

    @override
    def dial(self, peer: str, timeout: float) -> socket.socket:
        try:
            stream = socket.create_connection(self._addresses[peer], timeout)
        except (ValueError, OverflowError) as error:  # the peer may have announced any address
            raise OSError(f"that is no address ({error})") from error
        tune(stream)
        return stream

    @override
    def whereabouts(self, peer: str) -> str:
        host, port = self._addresses[peer]
        return f" at {host}:{port}"

    @override
    def close(self) -> None:
        """Nothing: the reception has the port."""


def _bind(host: str, ports: tuple[int, int]) -> socket.socket:
    address = host if host == "localhost" or host.startswith("127.") else ""
    for port in _range(ports):
        try:
            return socket.create_server((address, port), backlog=_BACKLOG)
        except OSError:
            continue
    taken = f"port {ports[0]} is" if ports[0] == ports[1] else f"all ports {ports[0]}-{ports[1]} are"
    raise LinkError(
        f"{taken} taken: no neighbour can dial in. Every run at a site takes a port; widen its link.ports"
    )


def _range(ports: tuple[int, int]) -> Iterator[int]:
    yield from range(ports[0], ports[1] + 1)
