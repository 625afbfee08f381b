"""A site's tickets for the meeting point, which the server's own process mints."""

import threading
import time
from collections.abc import Callable

from flaremesh.meeting.ticket import LIFETIME

_RENEWAL_SECONDS = LIFETIME.total_seconds() / 4  # an old one lasts a while yet if the server is away
_PAUSE_SECONDS = 5.0  # between two questions that were not answered


class Tickets:
    """Asks for each ticket when it is first wanted, and now and then for a newer one.

    Args:
        ask: called with a neighbour, from any thread; returns the ticket to meet it, or None.
    """

    def __init__(self, ask: Callable[[str], bytes | None]):
        self._ask = ask
        self._tickets: dict[str, bytes] = {}
        self._due: dict[str, float] = {}  # when to ask for the next one, by ``time.monotonic``
        self._asking = threading.Lock()

    def of(self, peer: str) -> bytes | None:
        """The ticket to meet ``peer``; None where the server gives none."""
        with self._asking:
            if time.monotonic() >= self._due.get(peer, 0.0):
                ticket = self._ask(peer)
                self._due[peer] = time.monotonic() + (_RENEWAL_SECONDS if ticket else _PAUSE_SECONDS)
                if ticket:
                    self._tickets[peer] = ticket
            return self._tickets.get(peer)
