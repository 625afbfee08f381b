"""Messages that arrived, kept until the iteration that needs them."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection

from flaremesh.links.errors import LinkClosed, LinkError, PeerTimeout, RunAborted
from flaremesh.links.link import Cancelled, Key, Payload, Refusal, room

_EARLY_MESSAGES = 256  # the most of one sender that may wait here; carriers then take in no more of it
_EARLY_BYTES = 1 << 30  # the most bytes of them, unless there are two messages at most
_REMEMBERED = 512  # names of taken messages, by sender, at least: more than a carrier can have under way
_POLL_SECONDS = 0.2  # an abort is noticed within so long: NVFlare's signal can only be polled


def has_room(messages: int, length: int, longest: int) -> bool:
    """Whether so many messages of one sender may wait.

    Args:
        messages: how many wait already.
        length: of these and one more, in bytes.
        longest: of all messages, in bytes.
    """
    most = max(min(room(longest), _EARLY_BYTES), 2 * longest)
    return messages < _EARLY_MESSAGES and length <= most


class Inbox:
    """Thread-safe store of arrived messages; a message is taken once.

    Attributes:
        cancelled: whether the run has been aborted; polled while waiting.
        longest: bytes of the longest message that may come; None while that is not known.
        reader: the thread that runs the site's iterations; None before the first.
        is_hasty: whether senders are told of every message at once when it is taken.
    """

    def __init__(self, cancelled: Cancelled):
        self.cancelled = cancelled
        self._messages: dict[Key, tuple[Payload, float]] = {}  # each with the time at which it came
        self._taken: defaultdict[str, tuple[set[Key], set[Key]]] = defaultdict(lambda: (set(), set()))
        self.longest: int | None = None
        self.reader: threading.Thread | None = None
        self.is_hasty = False
        self._on_take: dict[str, Callable[[int], None]] = {}
        self._waiting: Counter[str] = Counter()
        self._waiting_bytes: Counter[str] = Counter()
        self._failure: LinkError | None = None
        self._closed = False
        self._arrived = threading.Condition()

    def __contains__(self, key: Key) -> bool:
        return key in self._messages

    def expect(self, length: int) -> None:
        """No message has more than ``length`` bytes; the greatest of all that was said counts."""
        self.longest = max(length, self.longest or 0)

    def on_take(self, sender: str, call: Callable[[int], None]) -> None:
        """Call ``call`` with its length in bytes whenever a message of ``sender`` has been taken."""
        self._on_take[sender] = call

    def refusal(self, sender: str, length: int, *, is_new: bool = True) -> Refusal | None:
        """Why no memory is taken for a message now; None where it may come.

        Args:
            sender: an in-neighbour.
            length: of the message, in bytes.
            is_new: whether it will wait here; one that has come before is dropped, and needs no room.
        """
        if self.longest is not None and length > self.longest:
            return Refusal.OVERSIZED
        count, waiting = self.waiting(sender) if is_new else (0, 0)
        return None if has_room(count, waiting + length, self.longest or 0) else Refusal.EARLY

    def waiting(self, sender: str) -> tuple[int, int]:
        """How many messages of ``sender`` nobody has asked for yet, and how many bytes these are."""
        return self._waiting[sender], self._waiting_bytes[sender]

    def put(self, key: Key, payload: Payload) -> bool:
        """Store one message; returns False, and stores nothing, if there was one under this name before."""
        with self._arrived:
            latest, earlier = self._taken[key.sender]
            if key in self._messages or key in latest or key in earlier:
                return False
            if not self._closed:
                self._messages[key] = payload, time.perf_counter()
                self._waiting[key.sender] += 1
                self._waiting_bytes[key.sender] += len(payload)
                self._arrived.notify_all()
            return True

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
        self,
        keys: Collection[Key],
        timeout: float,
        came: Callable[[str, float], None] | None = None,
        deadline_of: Callable[[str, float, float], float] | None = None,
    ) -> dict[Key, Payload]:
        """Wait for all ``keys``, and remove their messages from the store.

        Args:
            keys: names of the messages.
            timeout: seconds to wait at most.
            came: called with the sender of each message and when it came, by ``time.perf_counter``.
            deadline_of: as Link.deadline, asked when ``timeout`` is over; None where that is the end.

        Raises:
            PeerTimeout: names the peers whose messages did not come.
            RunAborted: while waiting.
            LinkClosed: after ``close``.
            LinkError: the error given to `fail`.
        """
        started = time.monotonic()
        deadline = started + timeout
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
                if remaining <= 0 and deadline_of is not None:
                    deadlines = {key.sender: deadline_of(key.sender, started, timeout) for key in missing}
                    deadline = min(deadlines.values())
                    now = time.monotonic()
                    remaining = deadline - now
                    missing = [key for key in missing if deadlines[key.sender] <= now] or missing
                if remaining <= 0:
                    waited = max(timeout, deadline - started)
                    raise PeerTimeout({key.sender for key in missing}, missing[0].iteration, waited)
                self._arrived.wait(min(remaining, _POLL_SECONDS))

    def take_arrived(self, senders: Collection[str]) -> dict[Key, Payload]:
        """Remove all messages of these senders, oldest first; raises as `take`, but PeerTimeout."""
        self.is_hasty = True
        with self._arrived:
            if self.cancelled():
                raise RunAborted("the run was aborted")
            if self._closed:
                raise LinkClosed(f"the link is closed and receives nothing more of {', '.join(senders)}")
            keys = [key for key in self._messages if key.sender in senders]
            if not keys and self._failure is not None:
                raise self._failure
            return {key: self._take_out(key, None) for key in keys}

    def _take_out(self, key: Key, came: Callable[[str, float], None] | None) -> Payload:
        payload, when = self._messages.pop(key)
        self._waiting[key.sender] -= 1
        self._waiting_bytes[key.sender] -= len(payload)
        latest, _ = self._taken[key.sender]
        latest.add(key)
        if len(latest) >= _REMEMBERED:
            self._taken[key.sender] = set(), latest
        if (took := self._on_take.get(key.sender)) is not None:
            took(len(payload))
        if came is not None:
            came(key.sender, when)
        return payload
