"""Messages that arrived, kept until the iteration that needs them."""

import threading
import time
from collections import Counter
from collections.abc import Collection

from flaremesh.links.protocol import Cancelled, Key, Payload, PeerTimeout, RunAborted

_POLL_SECONDS = 0.2  # how soon an abort, which NVFlare only lets us poll, is noticed


class Inbox:
    """Thread-safe store of arrived messages; a message is taken once, later copies of it are dropped."""

    def __init__(self, cancelled: Cancelled):
        self._cancelled = cancelled
        self._messages: dict[Key, Payload] = {}
        self._waiting: Counter[str] = Counter()
        self._arrived = threading.Condition()

    def waiting(self, sender: str) -> int:
        """How many messages of ``sender`` nobody has taken yet."""
        return self._waiting[sender]

    def put(self, key: Key, payload: Payload) -> None:
        """Store one message; the transport below has dropped duplicates."""
        with self._arrived:
            self._messages[key] = payload
            self._waiting[key.sender] += 1
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
                    self._waiting.subtract(key.sender for key in keys)
                    return {key: self._messages.pop(key) for key in keys}
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise PeerTimeout({key.sender for key in missing}, missing[0].iteration, timeout)
                self._arrived.wait(min(remaining, _POLL_SECONDS))
