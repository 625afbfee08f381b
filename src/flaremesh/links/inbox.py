"""Messages that arrived, kept until the iteration that needs them."""

import threading
import time
from collections.abc import Collection

from flaremesh.links.protocol import Cancelled, Key, Payload, PeerTimeout, RunAborted

_POLL_SECONDS = 0.2  # how soon an abort, which NVFlare only lets us poll, is noticed


class Inbox:
    """Thread-safe store of arrived messages; a message is taken once, later copies of it are dropped."""

    def __init__(self, cancelled: Cancelled):
        self._cancelled = cancelled
        self._messages: dict[Key, Payload] = {}
        self._arrived = threading.Condition()

    def put(self, key: Key, payload: Payload) -> None:
        """Store one message; the transport below has dropped duplicates."""
        with self._arrived:
            self._messages[key] = payload
            self._arrived.notify_all()

    def take(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        """Wait for all ``keys``; see Link.receive for what is raised."""
        deadline = time.monotonic() + timeout
        with self._arrived:
            while True:
                if self._cancelled():
                    raise RunAborted("the run was aborted")
                missing = [key for key in keys if key not in self._messages]
                if not missing:
                    return {key: self._messages.pop(key) for key in keys}
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise PeerTimeout({key.sender for key in missing}, missing[0].iteration, timeout)
                self._arrived.wait(min(remaining, _POLL_SECONDS))
