"""The process in the middle of a star of sites: their packets pass through it, as slowly as a network's."""

import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

from bench.wan import namespaces
from bench.wan.line import Count, Line, Shape
from bench.wan.namespaces import HEADER
from bench.wan.star import Star

_PACKET_BYTES = (1 << 16) + HEADER.size
_BATCH = 32  # packets that are read from one site before others get their turn
_IPV4, _TCP = 4, 6
_LATE_SECONDS = 1e-3
_WIDE = Shape(rate=1e12, delay=0.0, queue=1 << 30)


@dataclass
class Punctuality:
    """How well the process kept its own times.

    Attributes:
        packets: that it delivered.
        late: that came out more than a millisecond after they should have.
        latest: seconds.
        seconds: that these figures are about.
        cpu_seconds: that it took of a core meanwhile.
    """

    packets: int = 0
    late: int = 0
    latest: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Router:
    """Reads what sites send and writes it to whom it is for.

    Args:
        star: the network.

    Raises:
        OSError: the right to make it is missing, or TUN devices are, or that congestion control.
    """

    def __init__(self, star: Star):
        self.namespaces: list[int] = []
        self._devices: list[int] = []
        for address in star.addresses:
            self.namespaces.append(namespaces.unshare())
            reached = None if star.hub == address else star.hub
            self._devices.append(
                namespaces.make_device(address, star.congestion, whole=star.whole, reached=reached)
            )
        self._numbers = {socket.inet_aton(address): number for number, address in enumerate(star.addresses)}
        self._shaped = [address != star.wide for address in star.addresses]
        self._up, self._down = (
            [Line(star.shape if shaped else _WIDE) for shaped in self._shaped] for _ in range(2)
        )
        self._kept = Punctuality()
        self._cpu, self._since = time.process_time(), time.perf_counter()

    def run(self, control: Connection) -> None:
        """Route until ``control`` is closed.

        Args:
            control: a `Shape` that comes by it is every line's from then on; None asks for figures.
        """
        places = {device: number for number, device in enumerate(self._devices)}
        while True:
            ready, _, _ = select.select([*places, control.fileno()], [], [], self._until_next())
            for each in ready:
                if each in places:
                    self._take(each, self._up[places[each]])
                elif not self._obey(control):
                    return
            self._deliver()

    def _until_next(self) -> float | None:
        dues = [line.under_way[0].at for line in (*self._up, *self._down) if line.under_way]
        return max(0.0, min(dues) - time.perf_counter()) if dues else None

    def _take(self, device: int, line: Line) -> None:
        for _ in range(_BATCH):
            try:
                packet = os.read(device, _PACKET_BYTES)
            except BlockingIOError:
                return
            if packet[HEADER.size] >> 4 == _IPV4:
                line.put(packet, on_the_wire(packet), time.perf_counter())

    def _deliver(self) -> None:
        """Move on what is due, in the order of its times: from site to the middle, from there to a site."""
        now = time.perf_counter()
        while True:
            due = [line for line in self._up if line.under_way and line.under_way[0].at <= now]
            if not due:
                break
            at, packet, length = min(due, key=lambda line: line.under_way[0].at).under_way.popleft()
            target = self._numbers.get(packet[HEADER.size + 16 : HEADER.size + 20])
            if target is not None:
                self._down[target].put(packet, length, at)
        for device, line in zip(self._devices, self._down, strict=True):
            while line.under_way and line.under_way[0].at <= now:
                due_at, packet, _ = line.under_way.popleft()
                with suppress(OSError):  # the site's end has gone
                    os.write(device, packet)
                late = time.perf_counter() - due_at
                self._kept.packets += 1
                self._kept.latest = max(self._kept.latest, late)
                self._kept.late += late > _LATE_SECONDS

    def _obey(self, control: Connection) -> bool:
        """Do what is asked for; returns False at the end."""
        try:
            asked = control.recv()
        except EOFError:
            return False
        if isinstance(asked, Shape):
            for up, down, shaped in zip(self._up, self._down, self._shaped, strict=True):
                if shaped:
                    up.shape = down.shape = asked
        control.send(self._figures())
        return True

    def _figures(self) -> dict[str, Any]:
        """Since they were last asked for."""
        cpu, self._cpu = self._cpu, time.process_time()
        since, self._since = self._since, time.perf_counter()
        self._kept.cpu_seconds, self._kept.seconds = self._cpu - cpu, self._since - since
        figures: dict[str, Any] = {
            "router": asdict(self._kept),
            "up": [asdict(line.count) for line in self._up],
            "down": [asdict(line.count) for line in self._down],
        }
        self._kept = Punctuality()
        for line in (*self._up, *self._down):
            line.count = Count()
        return figures


def on_the_wire(packet: bytes) -> int:
    """Bytes that a packet has as IP packets: one that is handed over uncut has headers for each segment."""
    segment: int
    _, _, _, segment, _, _ = HEADER.unpack_from(packet)
    length = len(packet) - HEADER.size
    if not segment or packet[HEADER.size + 9] != _TCP:
        return length
    network = 4 * (packet[HEADER.size] & 0xF)
    headers = network + 4 * (packet[HEADER.size + network + 12] >> 4)
    segments = -(-(length - headers) // segment)
    return length + (segments - 1) * headers


def main() -> None:
    """Takes the number of a descriptor, by which comes a `Star`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the one that started it
    with suppress(OSError):
        # a network does not wait until the sites leave it a core
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    control = Connection(int(sys.argv[1]))
    try:
        router = Router(control.recv())
    except OSError as error:
        control.send(error)
        return
    control.send(router.namespaces)
    router.run(control)


if __name__ == "__main__":
    main()
