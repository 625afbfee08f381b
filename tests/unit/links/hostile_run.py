"""A run of honest sites beside which somebody attacks, and what an attacker says."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from direct_mesh import Proxy, exchange

from flaremesh.links import LinkKind, connector
from flaremesh.links.frame import (
    GREETING_BYTES,
    Frame,
    Greeting,
    Kind,
    Word,
    pack,
    pack_greeting,
    run_digest,
    unpack_greeting,
)

RUN = run_digest("run")
HONEST = [("a", "b"), ("b", "a")]
HELLO = pack_greeting(Greeting(Word.HELLO), RUN)


class Run:
    """Honest sites a and b exchange; c is a neighbour of a alone, m of b, and the tests play m."""

    def __init__(self, sites):
        self.sites = sites
        self.proxies = []
        sites.add("a", ["b", "c"], ["b", "c"])
        self.address = sites.add("b", ["a", "m"], ["a"]).address
        sites.add("c", ["a"], ["a"])
        sites.add("m", [], ["b"], mode="relay")
        proxy = Proxy(self.address)
        self.proxies.append(proxy)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connector, "_DIAL_SECONDS", 0.05)  # m has no address
            assert not any(sites.open({"b": proxy.address}).values())
        self.b = sites.links["b"]
        self.refusals = sites.observers["b"].refusals
        self._iteration = 0

    def refused(self, name, reason, times=1):
        """Whether b comes to have refused ``name`` so often for ``reason``."""
        return self.sites.observers["b"].wait_for(lambda: self.refusals[name, reason] >= times)

    def cut(self):
        """Break the connection from a to b."""
        self.proxies[0].cut()

    def exchange(self, iterations=5):
        start, self._iteration = self._iteration, self._iteration + iterations
        assert exchange(self.sites, HONEST, iterations, lambda s, k: f"{s}{k}".encode() * 50, start) == []

    @contextmanager
    def undisturbed(self):
        """Fails unless a and b exchange before, during and after what happens inside, over direct links."""
        self.exchange()
        over = threading.Event()

        def go_on():
            while not over.is_set():
                self.exchange()

        with ThreadPoolExecutor(1) as pool:
            meanwhile = pool.submit(go_on)
            try:
                yield
            finally:
                over.set()
            meanwhile.result()
        self.exchange()
        for site in "ab":
            assert set(self.sites.observers[site].links.values()) == {LinkKind.DIRECT}


def connect(address, credentials):
    """A TLS connection to ``address`` as whoever ``credentials`` say."""
    raw = socket.create_connection(address, 10)
    return credentials.dialling().wrap_socket(raw)


@contextmanager
def greeted(address, credentials):
    """A connection that was accepted as an in-neighbour's."""
    with connect(address, credentials) as connection:
        connection.sendall(HELLO)
        assert greeting_of(connection).word is Word.ADOPT
        yield connection


def greeting_of(connection):
    """What the other end greets with."""
    return unpack_greeting(read(connection, GREETING_BYTES), RUN)


def read(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("hung up without an answer")
        data += piece
    return data


def is_over(connection):
    """Whether the other end hangs up, which it must."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def message(sequence, payload=b"x", iteration=0, **changes):
    frame = Frame(Kind.DATA, sequence, 0, 0, iteration, 0, len(payload))
    return pack(frame._replace(**changes)) + payload


@contextmanager
def bounded(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds
