"""What every link promises, and the words for what it carries."""

import time
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, TypeAlias

from flaremesh.links.errors import LinkError, PeerBehind
from flaremesh.topology.links import LinkKind
from flaremesh.waiting import wait_while

MAX_MESSAGE_BYTES: Final = 4 << 30
"""A peer that announces more is cut off."""

MAX_UNTAKEN_MESSAGES: Final = 512
MAX_UNTAKEN_BYTES: Final = 8 << 30
"""The most that is kept of what one peer has not acknowledged; then PeerBehind is raised. See also `room`."""

FLUSH_SECONDS: Final = 5.0
"""For so long a link that is closed waits by default until what was sent has been acknowledged."""

_FEW = 8  # messages; an iteration of an algorithm sends one or two
_SMALL_BYTES = 1 << 20  # that small messages may take whatever their length is
_ROOM_SECONDS = 0.005  # between two looks whether a peer that is behind has taken something

Payload: TypeAlias = bytes | memoryview
Cancelled: TypeAlias = Callable[[], bool]
"""True once the run has been aborted; polled while waiting."""


class Key(NamedTuple):
    """Names one message of a run; a link belongs to one run, so the run is not part of it.

    Attributes:
        iteration: from 0; negative before the first iteration.
        stage: number of the exchange in this iteration, from 0.
        sender: name of the site that sends the message.
        part: what is long is sent in several messages, numbered from 0, so that its end may be made while
            its beginning travels.
    """

    iteration: int
    stage: int
    sender: str
    part: int = 0


class Refusal(StrEnum):
    """Why something that arrived was dropped."""

    MALFORMED = "malformed"  # no frame or part of a run, or a frame that nobody sends there
    VERSION = "version"  # a frame of another version of the protocol
    RUN = "run"  # a frame or a certificate of another run
    OVERSIZED = "oversized"  # a message longer than those of the run, or than memory holds
    REPLAYED = "replayed"  # a message, or a greeting, that has come before
    EARLY = "early"  # its sender is too far ahead: the relay sends it again later
    CARRIER = "carrier"  # a message by a carrier that this run or edge does not use
    CHARTER = "charter"  # a neighbour, a carrier or a place that this site's kit does not allow
    FORGED = "forged"  # a relayed stream that its sender has not begun
    STRANGER = "stranger"  # the sender is no neighbour in this run
    SILENT = "silent"  # a connection did not finish handshake and greeting in time
    OVERLOAD = "overload"  # a connection made room for newer ones
    HANDSHAKE = "handshake"  # a connection that does not speak TLS 1.3, or that ended in its handshake
    EXPIRED = "expired"  # a certificate that has expired
    UNTRUSTED = "untrusted"  # no certificate, or one that is not that of a site's run in this mesh
    REVOKED = "revoked"  # a certificate that was revoked
    OUTDATED = "outdated"  # a certificate that was replaced by one seen before
    REJECTED = "rejected"  # the other end does not accept this site's certificate


def condition_after(reason: Refusal) -> str:
    """What to say of a peer whose last message was refused."""
    hint = ": is its model another one?" if reason is Refusal.OVERSIZED else ""
    return f"what it sent was refused as {reason}{hint}"


def length_of(peer: str, key: Key, buffers: Sequence[Payload]) -> int:
    """Bytes of a message to ``peer``; raises LinkError for one that no link carries."""
    length = sum(len(buffer) for buffer in buffers)
    if length > MAX_MESSAGE_BYTES:
        raise LinkError(
            f"{key.sender} has {length:,} bytes for {peer} in iteration {key.iteration + 1}, links carry "
            f"{MAX_MESSAGE_BYTES:,} in one message: a narrower `wire`, e.g. bfloat16, sends less"
        )
    return length


def room(longest: int) -> int:
    """Bytes that may wait, to or from one peer, of messages whose longest one has ``longest`` bytes."""
    return max(_SMALL_BYTES, _FEW * longest)


class Longest:
    """The longest message to one peer so far, in bytes of all its parts."""

    def __init__(self) -> None:
        self.bytes = self._bytes = 0
        self._exchange: tuple[int, int] | None = None

    def beside(self, key: Key, length: int) -> int:
        """What it will be with one more message, or one more part of the last."""
        return max(self.bytes, self._with(key, length))

    def add(self, key: Key, length: int) -> None:
        """Count that one."""
        self._bytes, self._exchange = self._with(key, length), (key.iteration, key.stage)
        self.bytes = max(self.bytes, self._bytes)

    def _with(self, key: Key, length: int) -> int:
        return length + (self._bytes if self._exchange == (key.iteration, key.stage) else 0)


def require_room(peer: str, messages: int, length: int, longest: int) -> None:
    """Raise PeerBehind if no more may wait for ``peer``.

    Args:
        peer: an out-neighbour.
        messages: how many wait.
        length: of all of them, in bytes.
        longest: of them and the one to come, in bytes.
    """
    many = length >= _SMALL_BYTES and length >= min(MAX_UNTAKEN_BYTES, room(longest))
    if many or messages >= MAX_UNTAKEN_MESSAGES:
        raise PeerBehind(
            f"{peer} has not taken the last {messages:,} messages ({length:,} bytes): it has stopped, is cut "
            "off, or is far behind; no more is kept for it"
        )


def require_length(payload: Payload, expected: int, peer: str) -> None:
    """Raise LinkError unless what ``peer`` sent has ``expected`` bytes."""
    if len(payload) != expected:
        raise LinkError(f"{peer} sent {len(payload)} bytes, expected {expected}: is its model another one?")


class Link(Protocol):
    """Delivers each message to each peer exactly once, in spite of loss and duplicates below it."""

    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
        """Hand over one message and return at once.

        Args:
            peer: an out-neighbour.
            key: the message's name.
            buffers: its bytes, one buffer after the other. They are kept, not copied, until the peer has
                acknowledged them: the caller must not change them afterwards.

        Raises:
            LinkError: the peer is no out-neighbour or out of reach for good, or the message is too long.
            LinkRefused: one end does not accept the other.
            PeerBehind: too much waits for the peer already.
            RunAborted: instead of PeerBehind and LinkClosed, where they follow from it.
            LinkClosed: after ``close``.
        """

    def receive(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        """Wait for all messages named by ``keys``, ``timeout`` seconds or what `deadline` says.

        Raises:
            PeerTimeout: names the peers whose messages did not come.
            LinkRefused: a peer does not accept this site, or this site not the peer.
            RunAborted: before or while waiting.
            LinkClosed: after ``close``.
        """

    def arrived(self, senders: Collection[str]) -> dict[Key, Payload]:
        """All messages of these in-neighbours that have come, oldest first, without waiting for any.

        Raises:
            LinkError: as `receive`, but PeerTimeout.
        """

    def lag(self, peer: str) -> int:
        """How many messages an out-neighbour's run has not taken yet."""

    def deadline(self, peer: str, started: float, timeout: float) -> float:
        """Until when to wait for ``peer``, by ``time.monotonic``.

        Args:
            peer: a neighbour.
            started: since when it is waited for.
            timeout: seconds for which it may be silent.
        """
        return started + timeout

    def expect(self, length: int) -> None:
        """No message of this run has more than ``length`` bytes, in all its parts; may be called again with
        more.

        Until it is known, little is taken in; whoever waits for messages before takes any that links carry.
        """

    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        """Free all resources; waits until what was sent has been acknowledged.

        Args:
            patience: seconds that this may take. With 0, as at the end of a failed run, the peers do not hear
                that the end is an orderly one.
        """


def send_in_time(link: Link, peer: str, key: Key, buffers: Sequence[Payload], timeout: float) -> None:
    """Send a message, and wait until there is room for it where the peer is far behind.

    A site that hears of few neighbours or of none may run ahead of those that it sends to. Sites never wait
    for each other in a circle: who is behind needs messages of earlier iterations only, which have been sent.

    Args:
        link: the sender's.
        peer, key, buffers: see Link.send.
        timeout: seconds for which it may be silent; see Link.deadline.

    Raises:
        LinkError: as Link.send; PeerBehind where the peer took nothing in all that time.
    """
    try:
        link.send(peer, key, buffers)
    except PeerBehind:

        def behind() -> PeerBehind | None:
            try:
                link.send(peer, key, buffers)
            except PeerBehind as error:
                return error
            return None

        started = time.monotonic()
        end = started + timeout
        while error := wait_while(behind, end - time.monotonic(), _ROOM_SECONDS):
            end = link.deadline(peer, started, timeout)
            if end <= time.monotonic():
                raise error from None


class LinkObserver(Protocol):
    """Hears of traffic; called from link threads, must be quick and must not raise."""

    def sent(self, peer: str, payload_bytes: int) -> None:
        """A message left for ``peer`` (once per attempt)."""

    def received(self, peer: str, payload_bytes: int) -> None:
        """A new message came from ``peer``."""

    def refused(self, peer: str, reason: Refusal) -> None:
        """Something from ``peer`` was dropped."""

    def waited(self, peer: str, seconds: float) -> None:
        """A message of ``peer`` was waited for so long."""

    def linked(self, peer: str, kind: LinkKind, wanted: LinkKind, *, is_dialled_back: bool) -> None:
        """Messages to ``peer`` now go by ``kind``; they would go by ``wanted`` if nothing were wrong.

        Args:
            is_dialled_back: whether only ``peer`` can dial a direct connection.
        """

    def changed(self, peer: str, kind: LinkKind) -> None:
        """Messages from ``peer``, which came by another carrier, now come by ``kind``."""
