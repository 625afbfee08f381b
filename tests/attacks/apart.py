"""A mesh whose sites have networks of their own, with a route to the server's and to nothing else."""

import multiprocessing
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from attacked_mesh import SITES, AttackedMesh, attacked_mesh

from bench.processes import Place
from bench.wan.namespaces import INTERFACE, enter, entered
from bench.wan.network import joined, path
from bench.wan.placed import PlacedTarget
from flaremesh.deploy.runs.run import run
from flaremesh.p2p.outcome import RunResult
from flaremesh.topology.schema import SERVER, Topology
from networks import own_networks

_ALL_PROTOCOLS = 0x0003
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_CAPTURE_BYTES = 256 << 20  # that may wait to be read
_PACKET_BYTES = 1 << 17
_LISTENING = "0A"
_LOOPBACK = (
    *("0100007F", "0000000000000000FFFF00000100007F"),  # 127.0.0.1, also as an address of IPv6
    "00000000000000000000000001000000",  # ::1
)
_LINE = path(1e9, 0.001)


@dataclass
class Apart:
    """It is up.

    Attributes:
        mesh: the same.
        places: of the participants.
    """

    mesh: AttackedMesh
    places: Mapping[str, Place]

    @contextmanager
    def running(self, **changes: Any) -> Iterator[Future[RunResult]]:
        """A run of all sites, which an admin on the server's machine follows; ``changes`` are of it."""
        topology = self.mesh.run_of(*SITES, **changes)
        # gRPC has threads that stay in the network in which it has begun
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, fresh, enter, [self.places[SERVER].namespace]) as pool:
            yield pool.submit(_run, topology, self.mesh.folder, self.places)

    def send_in_the_clear(self, site: str, data: bytes) -> None:
        """Let a site send something to the server's machine as it is."""
        with entered(str(self.places[SERVER].namespace)):
            listener = socket.create_server((self.places[SERVER].host, 0))
        with (
            listener,
            entered(str(self.places[site].namespace)),
            socket.create_connection(listener.getsockname(), 10) as sending,
        ):
            sending.sendall(data)

    def reaches(self, site: str, other: str, port: int) -> bool:
        """Whether a site has a route to another participant, and somebody answers there."""
        try:
            with entered(str(self.places[site].namespace)):
                socket.create_connection((self.places[other].host, port), 10).close()
        except OSError:
            return False
        return True

    def listening(self, site: str) -> set[str]:
        """Where somebody listens in a site's network, as the kernel writes it; loopback aside."""
        network = Path(f"/proc/{self.mesh.process(site).pid}/net")
        lines = [
            line.split() for name in ("tcp", "tcp6") for line in (network / name).read_text().splitlines()
        ]
        at = {address for _, address, _, state, *_ in lines if state == _LISTENING}
        return {address for address in at if not address.startswith(_LOOPBACK)}


def _run(topology: Topology, folder: Path, places: Mapping[str, Place]) -> RunResult:
    target = PlacedTarget(topology, folder, places)
    return run(topology, target, folder, "run", lambda *_: None, threading.Event())


class Capture:
    """Whatever passes the device of a network, both ways.

    Attributes:
        seen: the packets, one after the other.
    """

    def __init__(self, place: Place) -> None:
        with entered(str(place.namespace)):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
            self._socket.bind((INTERFACE, _ALL_PROTOCOLS))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _CAPTURE_BYTES)
        self.seen = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._socket, suppress(OSError):  # once the network is gone
            while packet := self._socket.recv(_PACKET_BYTES):
                self.seen += packet

    @property
    def lost(self) -> int:
        """How many packets came too fast since this was last asked."""
        _, drops = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return drops


@contextmanager
def apart(
    folder: Path, intruders: tuple[str, ...], port: int, meeting_port: int, **sections: Any
) -> Iterator[Apart]:
    """The mesh; the test is skipped where there are no such networks.

    Args:
        folder: of the mesh.
        intruders: participants whose owners attack.
        port: of the server.
        meeting_port: of the meeting point.
        sections: of the topology file.
    """
    own_networks()
    with joined((SERVER, *SITES), _LINE, hub=SERVER) as network:
        places = network.places
        server = {
            "host": places[SERVER].host,
            "port": port,
            "org": "consortium",
            "meet": {"port": meeting_port},
        }
        sites = [{"name": site, "org": f"{site}s"} for site in SITES]
        target = partial(PlacedTarget, places=places)
        with attacked_mesh(folder, intruders, target=target, server=server, sites=sites, **sections) as mesh:
            yield Apart(mesh, places)
