"""Whether a direct edge works, tried while no run uses it.

Between runs nobody listens at a site. So the agent of the site that is dialled opens a port of its range for
some seconds, and the agent of the one that dials makes a link there as a run would.
"""

import ssl
import threading
import time
import uuid
from typing import NamedTuple

from flaremesh.links import LinkError, Refusal
from flaremesh.links.carrier import Address
from flaremesh.links.credentials import Credentials
from flaremesh.links.direct.connection import signal
from flaremesh.links.direct.dialler import Dialler
from flaremesh.links.direct.listener import Listener
from flaremesh.links.direct.outgoing import Outgoing
from flaremesh.links.errors import LinkRefused
from flaremesh.links.frame import Kind, run_digest

_OPEN_SECONDS = 7.0  # a dialler tries for 5 s


class Invitation(NamedTuple):
    """Where and for which run to make a link.

    Attributes:
        port: it is open for some seconds.
        run: a made-up run id, for this probe alone.
    """

    port: int
    run: str


class ProbeListener:
    """Opens one port while in-neighbours are expected; closes it when all came or their time is over.

    Args:
        host: name under which neighbours dial.
        ports: inclusive range of ports, of which the first free one is taken.
        credentials: of this site.
    """

    def __init__(self, host: str, ports: tuple[int, int], credentials: Credentials):
        self._host, self._ports, self._credentials = host, ports, credentials
        self._changed = threading.Condition()
        self._expected: dict[str, float] = {}  # by name: until when
        self._listener: Listener | None = None
        self._run = ""
        self._closing = False

    def expect(self, peer: str) -> Invitation:
        """Let ``peer`` dial once within some seconds.

        Raises:
            LinkError: no port of the range is free, or the certificate cannot be used.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._closing)
            if self._listener is None:
                self._run = f"probe {uuid.uuid4()}"
                self._listener = Listener(
                    self._host,
                    self._ports,
                    self._credentials,
                    run_digest(self._run),
                    self._welcome,
                    lambda name, reason: None,  # the site that dials learns the reason by itself
                )
                threading.Thread(target=self._serve, args=[self._listener], name="probe", daemon=True).start()
            self._expected[peer] = time.monotonic() + _OPEN_SECONDS
            return Invitation(self._listener.port, self._run)

    def _welcome(self, name: str, connection: ssl.SSLSocket) -> Refusal | None:
        with self._changed:
            if self._expected.pop(name, None) is None:
                return Refusal.STRANGER
            self._changed.notify_all()
        with connection:
            connection.sendall(signal(Kind.ACK, run_digest(self._run)))
        return None

    def _serve(self, listener: Listener) -> None:
        with self._changed:
            while self._expected:
                self._changed.wait(max(0.0, min(self._expected.values()) - time.monotonic()))
                now = time.monotonic()
                self._expected = {peer: until for peer, until in self._expected.items() if until > now}
            self._closing = True
        listener.close()  # without the lock, for which its thread may wait
        with self._changed:
            self._listener, self._closing = None, False
            self._changed.notify_all()


class Failure(NamedTuple):
    """Why there is no link, and what to do about it, as sentences."""

    what: str
    remedy: str


def dial(site: str, peer: str, address: Address, run: str, credentials: Credentials) -> Failure | None:
    """Make a link and end it again; None if that worked.

    Args:
        site: the site that dials.
        peer: the site that must answer.
        address: where it listens.
        run: the invitation's.
        credentials: of ``site``.
    """
    try:
        context = credentials.dialling()
    except LinkError as error:
        return Failure(f"{error}.", "Install the kit again.")
    dialler = Dialler(site, peer, address, run_digest(run), credentials, context, lambda *_: None)
    edge = Outgoing(dialler, lost=lambda *_: None, fail=lambda _: None)
    try:
        cause = edge.wait()
    except LinkRefused as error:
        what, _, remedy = str(error).partition(". ")
        return Failure(f"{what}.", f"{remedy}: install the kits of the last one.")
    finally:
        edge.stop()
        edge.close()
    if cause is None:
        return None
    host, port = address
    return Failure(
        f"{site} has no link to {peer} at {host}:{port}: {cause}.",
        f"{host} must lead to {peer}, and both firewalls must let {site} connect to its ports.",
    )
