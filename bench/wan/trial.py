"""Whether a network is what was asked for: the round trip of one byte, and what TCP carries."""

import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench.wan.namespaces import entered
from bench.wan.network import Network

_PINGS = 20
_RECEIVE_BYTES = 1 << 20
_WARM_SHARE = 0.3  # of the bytes, in which TCP finds its speed
_SECONDS = 60.0


@dataclass(frozen=True)
class Trial:
    """What was found between two sites.

    Attributes:
        round_trip: seconds, the median.
        shortest: seconds, the least; a busy machine makes the others longer.
        rate: bits per second of payload, once TCP has found its speed.
    """

    round_trip: float
    shortest: float
    rate: float


def between(network: Network, one: str, other: str, length: int) -> Trial:
    """Send a byte to and fro, then ``length`` bytes from one site to the other.

    Raises:
        OSError: they do not reach each other.
    """
    with ExitStack() as stack:
        with entered(str(network.places[other].namespace)):
            listener = stack.enter_context(socket.create_server((network.places[other].host, 0)))
        listener.settimeout(_SECONDS)
        rates: list[float] = []
        answering = threading.Thread(target=_answer, args=(listener, length, rates))
        answering.start()
        stack.callback(answering.join)
        with entered(str(network.places[one].namespace)):
            connection = stack.enter_context(socket.create_connection(listener.getsockname(), _SECONDS))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips = [_trip(connection) for _ in range(_PINGS)]
        connection.sendall(bytes(length))
        answering.join()
    return Trial(median(trips), min(trips), rates[0])


def _trip(connection: socket.socket) -> float:
    begun = time.perf_counter()
    connection.sendall(b"x")
    connection.recv(1)
    return time.perf_counter() - begun


def _answer(listener: socket.socket, length: int, rates: list[float]) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_PINGS):
            connection.sendall(connection.recv(1))
        warm = int(_WARM_SHARE * length)
        came = 0
        while came < warm:
            came += len(connection.recv(_RECEIVE_BYTES)) or _hung_up()
        begun, before = time.perf_counter(), came
        while came < length:
            came += len(connection.recv(_RECEIVE_BYTES)) or _hung_up()
        rates.append(8 * (came - before) / (time.perf_counter() - begun))


def _hung_up() -> int:
    raise ConnectionError("the other site hung up")
