"""A meeting point on loopback, and tickets of the server that stands behind it."""

import functools
import socket
import time
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from flaremesh.issuing import read_key
from flaremesh.links.carriers.met import Meeting
from flaremesh.meeting.knock import await_go, introduce
from flaremesh.meeting.point import MeetingPoint
from flaremesh.meeting.refusal import Refused
from flaremesh.meeting.ticket import mint

MESH = "mesh"


class MeetingPlace:
    """It can be killed, and come back at the same address."""

    def __init__(self, authority, revoked=()):
        self._authority, self._revoked = authority, revoked
        self._server = server(authority)
        self.point = None
        self.address = "127.0.0.1", 0
        self.open()

    def open(self):
        listening = socket.create_server(self.address, backlog=1024)
        self.address = listening.getsockname()
        root = x509.load_pem_x509_certificate(self._authority.file.read_bytes())
        self.point = MeetingPoint(listening, MESH, root, self._revoked)

    def close(self):
        if self.point is not None:
            self.point.close()
            self.point = None

    @property
    def figures(self):
        return self.point.figures

    def ticket(self, *pair, run="run", **options):
        return ticket(self._server, pair, run, **options)

    def meeting(self, site, address=None, run="run"):
        """Where ``site`` meets its neighbours."""
        return Meeting(address or self.address, lambda peer: self.ticket(site, peer, run=run))

    def shows(self, condition, timeout=15):
        """Whether ``condition(figures)`` comes true."""
        return comes_true(lambda: condition(self.figures), timeout)


def server(authority, name="server"):
    """The credentials of a mesh's server."""
    return authority.kit(name, [ExtendedKeyUsageOID.SERVER_AUTH], rsa_key=True)


def ticket(signer, pair, run="run", mesh=MESH, lifetime=timedelta(hours=1)):
    """A ticket that the holder of credentials signs, whoever that is."""
    return mint(mesh, run, pair, _key(signer.key), signer.chain()[0], lifetime)


@functools.cache  # it takes a twentieth of a second
def _key(file):
    return read_key(file.read_bytes())


def comes_true(condition, timeout=15):
    """Whether what another thread brings about comes true; it tells nobody."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def knocked(address, credentials, shown, pair=("a", "b"), name=None, run="run", source=None):
    """A connection to a meeting point, which has said all that it says before the other end comes.

    ``shown`` is the ticket. What is signed is for ``pair``, ``run`` and ``name``, which is that of the
    credentials if it is not given.
    """
    stream = socket.create_connection(address, 10, source)
    try:
        introduce(
            stream, shown, credentials, run, pair, name or credentials.identify(credentials.chain()), 10
        )
    except BaseException:
        stream.close()
        raise
    return stream


def met(place, ends, **options):
    """Connections of the two ends of a pair, by name, which the meeting point has joined."""
    shown = place.ticket(*ends)
    streams = [knocked(place.address, each, shown, tuple(ends), **options) for each in ends.values()]
    for stream in streams:
        assert await_go(stream, 10)
        stream.settimeout(10)
    return streams


def said(stream):
    """Why the meeting point hangs up."""
    with pytest.raises(Refused) as caught:
        await_go(stream, 10)
    return caught.value.reason
