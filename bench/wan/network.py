"""A star of sites in namespaces, as whoever measures uses it."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bench.processes import ROOT, Place
from bench.wan.line import Shape
from bench.wan.namespaces import INTERFACE
from bench.wan.star import Star

_END_SECONDS = 5.0


def path(rate: float, one_way: float, loss: float = 0.0) -> Shape:
    """Lines of which two in a row make a path.

    Args:
        rate: bits per second, up and down, of each site.
        one_way: seconds from site to site.
        loss: share of packets that are lost from site to site.
    """
    product = int(rate * 2 * one_way / 8)  # of bandwidth and round trip
    return Shape(rate, one_way / 2, 1 - (1 - loss) ** 0.5, max(product, 1 << 16))


@dataclass(frozen=True)
class Network:
    """Sites that reach each other through lines.

    Attributes:
        places: by name of a site.
    """

    places: dict[str, Place]
    _control: Connection

    def shape(self, shape: Shape) -> None:
        """Give every line another shape."""
        self._control.send(shape)
        self._control.recv()

    def figures(self) -> dict[str, Any]:
        """What the lines carried and how punctual they were, since this was last asked."""
        self._control.send(None)
        return dict(self._control.recv())


@contextmanager
def joined(
    sites: Sequence[str],
    shape: Shape,
    congestion: str = "cubic",
    hub: str | None = None,
    wide: str | None = None,
) -> Iterator[Network]:
    """Make the network; it is gone afterwards.

    Args:
        sites: their names.
        shape: of every line, in both directions.
        congestion: name of TCP's congestion control; what Linux comes with, not what this machine prefers.
        hub: the only site to which the others have a route; None where all reach each other.
        wide: one in the middle, whose own line takes no time and is never full; None for none.

    Raises:
        OSError: the right to make it is missing, or TUN devices are, or that congestion control.
    """
    addresses = tuple(f"10.77.0.{number + 1}" for number in range(len(sites)))
    near, far = socket.socketpair()
    with far:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.wan.router", str(far.fileno())], pass_fds=[far.fileno()], cwd=ROOT
        )
    control = Connection(near.detach())
    try:
        reached, middle = (addresses[sites.index(each)] if each else None for each in (hub, wide))
        star = Star(addresses, shape, congestion, whole=not shape.loss, hub=reached, wide=middle)
        control.send(star)
        found = control.recv()
        if isinstance(found, OSError):
            raise found
        places = {
            site: Place(address, INTERFACE, f"/proc/{process.pid}/fd/{descriptor}")
            for site, address, descriptor in zip(sites, addresses, found, strict=True)
        }
        yield Network(places, control)
    finally:
        control.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
