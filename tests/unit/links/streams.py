"""Relay carriers by themselves, and a server between them that is faulty or does as the test says."""

import queue
import random
import threading
from typing import NamedTuple

from direct_mesh import Observer

from flaremesh.links.carriers import stream
from flaremesh.links.carriers.relay import RelayCarrier
from flaremesh.links.carriers.stream import Piece, PieceKind, pack, unpack
from flaremesh.waiting import wait_while


class Post(NamedTuple):
    """What the server is given to bring."""

    sender: str
    peer: str
    data: bytes

    @property
    def piece(self):
        return unpack(self.data)


class Faults:
    """Loses, repeats and reorders posts, drawn from a seeded generator."""

    def __init__(self, lose=0.0, repeat=0.0, delay=0.0, seed=0):
        self._lose, self._repeat, self._delay = lose, repeat, delay
        self._random, self._late = random.Random(seed), []

    def __call__(self, post):
        if self._random.random() < self._lose:
            return []
        if self._random.random() < self._delay:
            self._late.append(post)
            return []
        late, self._late = self._late, []
        return [post] * (1 + (self._random.random() < self._repeat)) + late


class Network:
    """Brings what carriers post, in a thread; keeps all that it has seen.

    Attributes:
        meddle: what it brings instead of a post.
    """

    def __init__(self, meddle=lambda post: [post]):
        self.meddle, self.seen = meddle, []
        self.carriers, self.observers, self._deliver = {}, {}, {}
        self._arrived = {}
        self._posts = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def carrier(self, name, peers):
        """Of one site; `accept` gives the streams that come to it."""
        arrived = self._arrived[name] = queue.Queue()
        observer = self.observers[name] = Observer()
        self.carriers[name] = RelayCarrier(
            _Transport(self._posts, self._deliver, name),
            frozenset(peers),
            lambda stream, kind, said: arrived.put((stream, said)),
            observer.refused,
        )
        return self.carriers[name]

    def accept(self, name, timeout=15):
        """The next stream that came to a site, and in whose name."""
        return self._arrived[name].get(timeout=timeout)

    def accepted(self, name):
        """All streams that came to a site and were not accepted."""
        waiting = self._arrived[name]
        return [waiting.get()[0] for _ in range(waiting.qsize())]

    def bring(self, peer, sender, data):
        """As if ``sender`` had sent it."""
        self._deliver[peer](sender, data)

    def close(self):
        for carrier in self.carriers.values():
            carrier.close()
        for name in self._arrived:
            for end in self.accepted(name):
                end.close()
        self._posts.put(None)
        self._thread.join()

    def _run(self):
        while (post := self._posts.get()) is not None:
            self.seen.append(post)
            for sender, peer, data in self.meddle(post):
                if peer in self._deliver:
                    self._deliver[peer](sender, data)


class _Transport:
    def __init__(self, posts, deliver, name):
        self._posts, self._deliver, self._name = posts, deliver, name

    def post(self, peer, data):
        self._posts.put(Post(self._name, peer, data))

    def listen(self, deliver):
        self._deliver[self._name] = deliver


MIB = 1 << 20
NUMBER = b"12345678"


def connect(network, ends):
    near = ends(network.carriers["a"].dial("b", 3))
    near.settimeout(15)
    near.sendall(b"!")
    far, said = network.accept("b")
    ends(far).settimeout(15)
    assert said == "a"
    assert far.recv(1) == b"!"
    return near, far


def read(stream, count):
    data = bytearray()
    while len(data) < count:
        piece = stream.recv(count - len(data))
        assert piece, "it has ended"
        data += piece
    return bytes(data)


def until(condition, seconds=15):
    """Whether ``condition()`` comes true in time."""
    return not wait_while(lambda: not condition(), seconds, 0.005)


def piece(payload=b"x", offset=0, number=NUMBER, kind=PieceKind.PIECE, acknowledged=0):
    return pack(Piece(kind, number, offset, acknowledged, payload))


def beginning(number=NUMBER):
    return piece(b"", 0, number, PieceKind.BEGIN)


def relay_threads():
    return sum(thread.name.startswith("relay-") for thread in threading.enumerate())


def hasten(patch):
    """Acknowledge and repeat sooner."""
    patch.setattr(stream, "_ACK_SECONDS", 0.01)
    patch.setattr(stream, "_RESEND_SECONDS", 0.05)
    patch.setattr(stream, "_RESEND_SECONDS_MAX", 0.2)
