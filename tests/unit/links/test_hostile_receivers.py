"""Whoever is dialled and does not behave is refused, or given up in time, and the run beside it goes on."""

import itertools
import socket
import threading
from contextlib import contextmanager

import pytest
from direct_mesh import Sites
from hostile_run import HELLO, RUN, bounded, greeting_of, message, read

from flaremesh.links import Key, LinkError, LinkRefused, PeerTimeout, connector
from flaremesh.links.frame import HEADER_BYTES, Frame, Greeting, Kind, Word, pack, pack_greeting, unpack


class Receiver:
    """A neighbour that sites may dial and that does as the test says."""

    def __init__(self, credentials, serve):
        self._context, self._serve = credentials.listening(), serve
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = self._socket.getsockname()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self):
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _accept(self):
        held = []
        while not self._over.is_set():
            try:
                raw, _ = self._socket.accept()
                held.append(self._context.wrap_socket(raw, server_side=True))
                assert greeting_of(held[-1]).word is Word.HELLO
                self._serve(held[-1], self._over)
            except OSError:
                pass
        for connection in held:
            connection.close()


def acknowledgement(arrived, kind=Kind.ACK):
    return pack(Frame(kind, 0, arrived, 0))


def adoption(received=0, number=1):
    """What the end that leads says of a connection that counts."""
    return pack_greeting(Greeting(Word.ADOPT, received, number), RUN)


class Dialling:
    """The link of site x with the neighbour m that ``receiver`` plays; m leads, since its name is less."""

    def __init__(self, authority, sources="m"):
        self.sites = Sites(authority)
        self.link = self.sites.add("x", sources, ["m"], mode="direct", listens=False)

    def open(self, address, timeout=10):
        """What that raises; None for nothing."""
        return self.sites.open({"m": address}, timeout)["x"]


@contextmanager
def dialling(authority, receiver, **options):
    x = Dialling(authority, **options)
    try:
        yield x
    finally:
        with bounded(8):
            x.sites.close(patience=0)
        receiver.close()


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (adoption(1), "malformed"),
        (adoption(2**64 - 1), "malformed"),
        (HELLO, "malformed"),
        (acknowledgement(0) * 2, "malformed"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nServer: x\r\n\r\n", "malformed"),
        (pack_greeting(Greeting(Word.REFUSED, reason="a\nb\x1b[2Jcd"), RUN), r"a\nb\x1b[2J"),
    ],
)
def test_a_neighbour_that_answers_wrongly_is_refused(run, authority, mallory, reply, cause):
    receiver = Receiver(mallory, lambda connection, _: connection.sendall(reply))
    with run.undisturbed(), dialling(authority, receiver) as x:
        error = x.open(receiver.address)
        assert isinstance(error, LinkRefused)
        assert "x has no link to m" in str(error)
        assert cause in str(error)


@pytest.mark.parametrize(
    "lie",
    [
        acknowledgement(2),
        acknowledgement(2**64 - 1),
        pack(Frame(Kind.ACK, 0, 0, 1)),
        message(1, acknowledged=2),
    ],
)
def test_a_neighbour_that_acknowledges_what_was_never_sent_ends_the_run_with_its_name(
    run, authority, mallory, lie
):
    def serve(connection, _):
        connection.sendall(adoption())
        while unpack(read(connection, HEADER_BYTES)).kind is not Kind.DATA:
            pass
        connection.sendall(lie)

    receiver = Receiver(mallory, serve)
    with run.undisturbed(), dialling(authority, receiver) as x:
        assert x.open(receiver.address) is None
        x.link.send("m", Key(0, 0, "x"), [b""])
        with pytest.raises(LinkRefused, match=r"x has no link to m.*malformed"):
            x.link.receive([Key(5, 0, "m")], 10)


def test_a_neighbour_that_trickles_its_answer_is_given_up_in_time(run, authority, mallory, monkeypatch):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 0.5)
    monkeypatch.setattr(connector, "_ATTEMPT_SECONDS", 0.5)

    def serve(connection, over):
        for byte in adoption():
            connection.sendall(bytes([byte]))
            over.wait(0.1)

    receiver = Receiver(mallory, serve)
    with run.undisturbed(), dialling(authority, receiver) as x, bounded(4):
        assert "m: no answer in time" in str(x.open(receiver.address))


def test_a_neighbour_that_says_of_an_old_connection_that_it_counts_is_not_followed(run, authority, mallory):
    receiver = Receiver(mallory, lambda connection, _: connection.sendall(adoption(number=0)))
    with run.undisturbed(), dialling(authority, receiver) as x:
        assert "no sign of m" in str(x.open(receiver.address, timeout=0.5))


def test_a_neighbour_that_ends_every_connection_is_not_dialled_without_a_pause(run, authority, mallory):
    made = itertools.count(1)

    def serve(connection, _):
        connection.sendall(adoption(number=next(made)))
        connection.shutdown(socket.SHUT_RDWR)

    receiver = Receiver(mallory, serve)
    with run.undisturbed(), dialling(authority, receiver) as x:
        x.open(receiver.address)
        with pytest.raises(PeerTimeout):
            x.link.receive([Key(0, 0, "m")], 2)
    assert 2 < next(made) < 12


def test_a_neighbour_that_is_only_sent_to_has_nothing_to_say(run, authority, mallory):
    is_open = threading.Event()

    def serve(connection, _):
        connection.sendall(adoption())
        is_open.wait()
        connection.sendall(message(1))

    receiver = Receiver(mallory, serve)
    with run.undisturbed(), dialling(authority, receiver, sources="") as x:
        assert x.open(receiver.address) is None
        is_open.set()
        observer = x.sites.observers["x"]
        assert observer.wait_for(lambda: observer.refusals["m", "stranger"])


def test_a_neighbour_that_reads_nothing_does_not_hold_up_the_end(run, authority, mallory, monkeypatch):
    receiver = Receiver(mallory, lambda connection, over: connection.sendall(adoption()) or over.wait())
    with run.undisturbed(), dialling(authority, receiver) as x:
        assert x.open(receiver.address) is None
        for k in range(4):
            x.link.send("m", Key(k, 0, "x"), [bytes(10_000_000)])
        with bounded(3):
            x.link.close(patience=0.2)


@pytest.mark.parametrize("address", [("x" * 70, 1), ("localhost", 99_999), ("localhost", -1), ("", 0)])
def test_an_address_that_is_none_is_no_link(authority, monkeypatch, address):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 0.1)
    x = Dialling(authority)
    assert "x has no direct link to m" in str(x.open(address))
    x.sites.close()


def test_a_certificate_that_cannot_be_read_is_named(authority, tmp_path):
    identity = authority.issue("x")
    identity.certificate.write_text("nothing")
    sites = Sites(authority)
    with pytest.raises(LinkError, match=f"certificate {identity.certificate} cannot be used"):
        sites.add("x", [], ["m"], credentials=identity)
    sites.posts.put(None)
