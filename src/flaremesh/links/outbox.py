"""What one peer is sent: kept until it is acknowledged, and written while the peer's inbox has room."""

from collections import deque
from typing import NamedTuple

from flaremesh.links.edges import Message
from flaremesh.links.frame import FrameError
from flaremesh.links.inbox import has_room
from flaremesh.links.link import Longest, Refusal, require_room


class Numbered(NamedTuple):
    """A message with its number among those to this peer, from 1."""

    sequence: int
    message: Message


class Outbox:
    """The messages to one peer, in their order; whoever uses it holds the pair's lock.

    Args:
        peer: name of the peer.
    """

    def __init__(self, peer: str):
        self._peer = peer
        self._kept: deque[Message] = deque()  # that are not acknowledged
        self._bytes = 0  # of these
        self._longest = Longest()
        self._acknowledged = 0  # number of the last message that is
        self._latest = 0  # number of the last message
        self._next = 1  # number of the message to be written next
        self._written = 0  # of the last message that any connection has carried
        self._lengths: deque[int] = deque()  # of the messages that the peer's run has not taken
        self._taken = 0  # number of messages that it has
        self._in_flight = 0  # bytes of those that were written and not taken

    @property
    def is_empty(self) -> bool:
        """Whether all messages are acknowledged."""
        return not self._kept

    @property
    def is_written(self) -> bool:
        """Whether this connection has carried all messages."""
        return self._next > self._latest

    @property
    def lag(self) -> int:
        """How many messages the peer's run has not taken."""
        return self._latest - self._taken

    def add(self, message: Message) -> None:
        """Keep one more; raises PeerBehind where too much waits already."""
        longest = self._longest.beside(message.key, message.length)
        require_room(self._peer, len(self._kept), self._bytes, longest)
        self._longest.add(message.key, message.length)
        self._latest += 1
        self._bytes += message.length
        self._kept.append(message)
        self._lengths.append(message.length)

    def take_next(self) -> Numbered | None:
        """The message to be written next; None where there is none, or no room for it at the peer."""
        if self.is_written:
            return None
        message = self._kept[self._next - 1 - self._acknowledged]
        waiting = self._next - 1 - self._taken
        if waiting and not has_room(waiting, self._in_flight + message.length, self._longest.bytes):
            return None
        self._in_flight += message.length
        self._written, self._next = max(self._written, self._next), self._next + 1
        return Numbered(self._next - 1, message)

    def restart(self, arrived: int) -> None:
        """Write to a new connection whatever comes after the ``arrived`` messages that the peer says to have.

        Raises:
            FrameError: it says to have more than was ever written.
        """
        self._settle(arrived)
        self._next = self._acknowledged + 1
        self._in_flight = sum(self._lengths[number] for number in range(self._acknowledged - self._taken))

    def learn(self, acknowledged: int, taken: int) -> bool:
        """The peer has got so many messages, and its run has taken so many; returns whether any is news.

        Raises:
            FrameError: it says to have more than was ever written, or takes back what it said.
        """
        if not self._taken <= taken <= acknowledged or acknowledged < self._acknowledged:
            raise FrameError(Refusal.MALFORMED)
        is_news = acknowledged > self._acknowledged or taken > self._taken
        self._settle(acknowledged)
        while self._taken < taken:
            self._taken += 1
            self._in_flight -= self._lengths.popleft()
        return is_news

    def require_written(self, arrived: int) -> None:
        """Raise FrameError where the peer says to have got more than was ever written."""
        if arrived > self._written:
            raise FrameError(Refusal.MALFORMED)

    def _settle(self, arrived: int) -> None:
        self.require_written(arrived)
        while self._acknowledged < arrived:
            message = self._kept.popleft()
            self._acknowledged += 1
            self._bytes -= message.length
            if self._next <= self._acknowledged:  # it came by the connection before, after the greeting
                self._next += 1
                self._in_flight += message.length
