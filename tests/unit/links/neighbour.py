"""A neighbour that does as the test says: it speaks the frames of a pair, and none that it is not told to."""

import socket
import threading
from collections import Counter
from contextlib import contextmanager, suppress

import psutil

from flaremesh.links import LinkKind
from flaremesh.links.frame import (
    GREETING_BYTES,
    HEADER_BYTES,
    Frame,
    Greeting,
    Kind,
    Word,
    pack,
    pack_greeting,
    run_digest,
    unpack,
    unpack_greeting,
)

BOUND = 20  # seconds; reached only by a failure
RUN = run_digest("run")


def data(number, payload=b"x", iteration=0, *, stage=0, length=None, acknowledged=0, taken=0):
    """The bytes of a message."""
    length = len(payload) if length is None else length
    return pack(Frame(Kind.DATA, number, acknowledged, taken, iteration, stage, length)) + payload


def word(kind, acknowledged=0, taken=0):
    """The bytes of a frame without a message."""
    return pack(Frame(kind, 0, acknowledged, taken))


class Neighbour:
    """One end of a connection."""

    def __init__(self, connection):
        self.connection = connection
        connection.settimeout(BOUND)
        self._taken = 0

    def send(self, *frames):
        self.connection.sendall(b"".join(frames))

    def read(self, length):
        content = bytearray()
        while len(content) < length:
            piece = self.connection.recv(length - len(content))
            if not piece:
                raise ConnectionError("the site hung up")
            content += piece
        return bytes(content)

    def greeting(self):
        return unpack_greeting(self.read(GREETING_BYTES), RUN)

    def frame(self):
        """The next frame, and its message."""
        frame = unpack(self.read(HEADER_BYTES))
        return frame, self.read(frame.length)

    def frames(self, until):
        """All frames up to the first for which ``until(frame)``."""
        heard = []
        while not heard or not until(heard[-1]):
            heard.append(self.frame()[0])
        return heard

    def message(self):
        """The next message, and its number."""
        while (heard := self.frame())[0].kind is not Kind.DATA:
            pass
        return heard[0].sequence, heard[1]

    def hears_nothing(self, seconds=0.2):
        self.connection.settimeout(seconds)
        try:
            return not self.connection.recv(1)
        except TimeoutError:
            return True
        finally:
            self.connection.settimeout(BOUND)

    def stays_without(self, kind, seconds=0.3):
        """Whether a time comes that is so long, and in which no frame of ``kind`` does."""
        self.connection.settimeout(seconds)
        kinds = []
        try:
            while True:
                kinds.append(self.frame()[0].kind)
        except TimeoutError:
            return kind not in kinds[-1:]
        finally:
            self.connection.settimeout(BOUND)

    def is_hung_up(self):
        """Whether the site hangs up, whatever it says before."""
        with suppress(ConnectionError):
            while self.connection.recv(1 << 16):
                pass
        return True

    def close(self):
        self.connection.close()


def joined(pair, kind=LinkKind.DIRECT, *, arrived=0, number=1):
    """A neighbour with whom ``pair`` goes on over a new connection, of which it says to have got so much."""
    near, far = socket.socketpair()
    said = Greeting(Word.HELLO, arrived) if pair.leads else Greeting(Word.ADOPT, arrived, number)
    try:
        pair.adopt(near, kind, said)
    except BaseException:
        near.close()
        far.close()
        raise
    neighbour = Neighbour(far)
    if pair.leads:
        assert neighbour.greeting().word is Word.ADOPT
    return neighbour


@contextmanager
def greeted(address, credentials):
    """A neighbour that has dialled a site which leads, proved its name, and been accepted."""
    raw = socket.create_connection(address, BOUND)
    with credentials.dialling().wrap_socket(raw) as connection:
        neighbour = Neighbour(connection)
        neighbour.send(pack_greeting(Greeting(Word.HELLO), RUN))
        assert neighbour.greeting().word is Word.ADOPT
        yield neighbour


@contextmanager
def nothing_left(threads=10):
    """Fails where what happens inside leaves a thread or a descriptor behind."""
    process = psutil.Process()
    before, descriptors = set(threading.enumerate()), process.num_fds()
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(threads)
    left = set(threading.enumerate()) - before
    assert not left, Counter(thread.name for thread in left)
    assert process.num_fds() == descriptors
