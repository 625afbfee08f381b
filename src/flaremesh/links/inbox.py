"""Messages that arrived, kept until the iteration that needs them."""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection

from flaremesh.links.errors import LinkClosed, LinkError, PeerTimeout, RunAborted
from flaremesh.links.link import Cancelled, Key, Payload

_EARLY_MESSAGES = 256  # the most of one sender that may wait here; carriers then take in no more of it
_EARLY_BYTES = 1 << 30  # the most bytes of them, unless it is a single message
_REMEMBERED = 512  # names of taken messages, by sender: more than a carrier can have under way
_POLL_SECONDS = 0.2  # an abort is noticed within so long: NVFlare's signal can only be polled


class Inbox:
    """Thread-safe store of arrived messages; a message is taken once.

    Attributes:
        cancelled: whether the run has been aborted; polled while waiting.
    """

    def __init__(self, cancelled: Cancelled):
        self.cancelled = cancelled
        self._messages: dict[Key, tuple[Payload, float]] = {}  # each with the time at which it came
        self._taken: defaultdict[str, deque[Key]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._waiting: Counter[str] = Counter()
        self._waiting_bytes: Counter[str] = Counter()
        self._failure: LinkError | None = None
        self._closed = False
        self._arrived = threading.Condition()

    def __contains__(self, key: Key) -> bool:
        return key in self._messages

    def is_full(self, sender: str) -> bool:
        """Whether ``sender`` is so far ahead that its next message must wait."""
        waiting = self._waiting[sender]
        return waiting >= _EARLY_MESSAGES or (waiting > 1 and self._waiting_bytes[sender] >= _EARLY_BYTES)

    def waiting(self, sender: str) -> tuple[int, int]:
        """How many messages of ``sender`` nobody has asked for yet, and how many bytes these are."""
        return self._waiting[sender], self._waiting_bytes[sender]

    def put(self, key: Key, payload: Payload, *, repeat: bool = False) -> None:
        """Store one message.

        Args:
            key: its name.
            payload: its bytes.
            repeat: another carrier may have brought it before; then it is dropped. Carriers drop duplicates
                of their own.
        """
        with self._arrived:
            if self._closed or (repeat and (key in self._messages or key in self._taken[key.sender])):
                return
            self._messages[key] = payload, time.perf_counter()
            self._waiting[key.sender] += 1
            self._waiting_bytes[key.sender] += len(payload)
            self._arrived.notify_all()

    def fail(self, error: LinkError) -> None:
        """Let `take` raise ``error`` from now on where messages are missing; a first error stays."""
        with self._arrived:
            self._failure = self._failure or error
            self._arrived.notify_all()

    def close(self) -> None:
        """Forget all messages; from now on `take` raises LinkClosed."""
        with self._arrived:
            self._closed = True
            self._messages.clear()
            self._waiting.clear()
            self._waiting_bytes.clear()
            self._arrived.notify_all()

    def take(
        self, keys: Collection[Key], timeout: float, came: Callable[[str, float], None] | None = None
    ) -> dict[Key, Payload]:
        """Wait for all ``keys``, and remove their messages from the store.

        Args:
            keys: names of the messages.
            timeout: seconds to wait at most.
            came: called with the sender of each message and when it came, by ``time.perf_counter``.

        Raises:
            PeerTimeout: names the peers whose messages did not come.
            RunAborted: while waiting.
            LinkClosed: after ``close``.
            LinkError: the error given to `fail`.
        """
        deadline = time.monotonic() + timeout
        with self._arrived:
            while True:
                if self.cancelled():
                    raise RunAborted("the run was aborted")
                if self._closed:
                    senders = ", ".join(sorted({key.sender for key in keys}))
                    raise LinkClosed(f"the link is closed and receives nothing more of {senders}")
                missing = [key for key in keys if key not in self._messages]
                if not missing:
                    return {key: self._take_out(key, came) for key in keys}
                if self._failure is not None:
                    raise self._failure
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise PeerTimeout({key.sender for key in missing}, missing[0].iteration, timeout)
                self._arrived.wait(min(remaining, _POLL_SECONDS))

    def _take_out(self, key: Key, came: Callable[[str, float], None] | None) -> Payload:
        payload, when = self._messages.pop(key)
        self._waiting[key.sender] -= 1
        self._waiting_bytes[key.sender] -= len(payload)
        self._taken[key.sender].append(key)
        if came is not None:
            came(key.sender, when)
        return payload
