"""A meeting point on loopback, and tickets of the server that stands behind it."""

import socket
import time
from datetime import timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from flaremesh.links.carriers.met import Meeting
from flaremesh.meeting.point import MeetingPoint
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
    return mint(mesh, run, pair, signer.key.read_bytes(), signer.chain()[0], lifetime)


def comes_true(condition, timeout=15):
    """Whether what another thread brings about comes true; it tells nobody."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
