"""What happens to packets on a line: they wait for their turn, take their time, arrive later, or never."""

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple


@dataclass(frozen=True)
class Shape:
    """One direction of a site's line.

    Attributes:
        rate: bits per second, of IP packets with their headers.
        delay: seconds that every packet takes beside waiting and being written.
        loss: share of the packets that are lost on the way.
        queue: bytes that may wait for their turn; what comes then is lost.
    """

    rate: float
    delay: float
    loss: float = 0.0
    queue: int = 1 << 20


@dataclass
class Count:
    """What a line has carried.

    Attributes:
        packets, bytes: that were written to it.
        busy: seconds that this took.
        full, lost: packets that found no place to wait, and that were lost on the way.
        longest: most bytes that ever waited.
    """

    packets: int = 0
    bytes: int = 0
    busy: float = 0.0
    full: int = 0
    lost: int = 0
    longest: float = 0.0


class Due(NamedTuple):
    """A packet and when it comes out of the line, by the clock of whoever put it in."""

    at: float
    packet: bytes
    length: int


@dataclass
class Line:
    """One direction of a site's line; without threads or a clock of its own.

    Attributes:
        shape: rate, delay, loss and queue.
        random: decides what is lost.
        under_way: packets in it, in the order in which they come out.
        count: what it has carried since that was last reset.
    """

    shape: Shape
    random: Random = field(default_factory=Random)
    under_way: deque[Due] = field(default_factory=deque)
    count: Count = field(default_factory=Count)
    _free: float = 0.0  # when everything that waits will have been written

    def put(self, packet: bytes, length: int, now: float) -> None:
        """Take a packet in, or lose it.

        Args:
            packet: as it is to come out.
            length: bytes that it has on the line.
            now: not before any earlier call's.
        """
        shape, count = self.shape, self.count
        begin = max(now, self._free)
        waiting = (begin - now) * shape.rate / 8
        if waiting + length > shape.queue and waiting:
            count.full += 1
            return
        seconds = 8 * length / shape.rate
        self._free = begin + seconds
        count.packets += 1
        count.bytes += length
        count.busy += seconds
        count.longest = max(count.longest, waiting)
        if shape.loss and self.random.random() < shape.loss:
            count.lost += 1
            return
        self.under_way.append(Due(self._free + shape.delay, packet, length))
