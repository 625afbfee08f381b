"""What is said at a meeting point before bytes are passed on.

Who dials knocks: with a ticket, and with the certificates of its run. The meeting point answers with a nonce,
which the dialler signs with the run's key. When the other end has done the same, both are told to go on, and
hear the meeting point no more. All this passes in clear: a ticket that somebody reads on the way is of no use
without the run's key.
"""

import json
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from flaremesh.meeting.refusal import Reason, Refused
from flaremesh.meeting.ticket import MOST_TICKET_BYTES

VERSION: Final = 1
NONCE_BYTES: Final = 32
MOST_CHAIN_BYTES: Final = 8192
MOST_SIGNATURE_BYTES: Final = 1024

_MAGIC: Final = b"FMMP"
_HEADER: Final = struct.Struct("!4sBxHH")  # bytes of the ticket, bytes of the chain
_LENGTH: Final = struct.Struct("!H")  # of the signature
_GO: Final = b"G"
_CHALLENGE: Final = b"C"  # a nonce follows
_REFUSED: Final = b"R"  # a reason follows
_REASON_BYTES: Final = 15

MOST_KNOCK_BYTES: Final = _HEADER.size + MOST_TICKET_BYTES + MOST_CHAIN_BYTES
"""So long is a knock at most."""


class Holder(Protocol):
    """Who has the key and the certificates of a run, as `flaremesh.links.credentials.Credentials`."""

    def chain(self) -> Sequence[x509.Certificate]:
        """The run's certificate, and those that lead from it to the mesh's root."""

    def sign(self, content: bytes) -> bytes:
        """The signature of the run."""


class Knock(NamedTuple):
    """What who dials says first.

    Attributes:
        ticket: as `flaremesh.meeting.ticket.mint` made it.
        chain: certificates in PEM.
    """

    ticket: bytes
    chain: bytes


# what is written


def knock(ticket: bytes, chain: Sequence[x509.Certificate]) -> bytes:
    """The first bytes of who dials.

    Raises:
        ValueError: ticket or certificates are longer than any meeting point takes.
    """
    text = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
    if len(ticket) > MOST_TICKET_BYTES or len(text) > MOST_CHAIN_BYTES:
        raise ValueError("the ticket or the certificates are longer than a meeting point takes")
    return _HEADER.pack(_MAGIC, VERSION, len(ticket), len(text)) + ticket + text


def statement(nonce: bytes, run: str, pair: Sequence[str], name: str) -> bytes:
    """What the end ``name`` of a pair signs; nobody else has anything signed that begins like this."""
    return json.dumps(["flaremesh meeting point", VERSION, nonce.hex(), run, *sorted(pair), name]).encode()


def proof(signature: bytes) -> bytes:
    """The last bytes of who dials before it is told to go on."""
    return _LENGTH.pack(len(signature)) + signature


def challenge(nonce: bytes) -> bytes:
    """The meeting point's answer to a knock."""
    return _CHALLENGE + nonce


def go() -> bytes:
    """The meeting point's last byte: what follows is the other end's."""
    return _GO


def refusal(reason: Reason) -> bytes:
    """The meeting point's last bytes before it hangs up."""
    return _REFUSED + reason.encode().ljust(_REASON_BYTES, b"\0")


# what is read


def read_knock(data: bytes | bytearray) -> Knock | None:
    """The knock in ``data``; None while it is not whole.

    Raises:
        Refused: it is none, or longer than it may be.
    """
    if not _MAGIC.startswith(data[: len(_MAGIC)]):
        raise Refused(Reason.MALFORMED)  # at the first wrong byte
    if len(data) < _HEADER.size:
        return None
    _, version, ticket, chain = _HEADER.unpack_from(data)
    if version != VERSION:
        raise Refused(Reason.VERSION)
    if ticket > MOST_TICKET_BYTES or chain > MOST_CHAIN_BYTES:
        raise Refused(Reason.MALFORMED)
    end = _HEADER.size + ticket + chain
    if len(data) > end:
        raise Refused(Reason.MALFORMED)
    if len(data) < end:
        return None
    return Knock(bytes(data[_HEADER.size : end - chain]), bytes(data[end - chain :]))


def read_proof(data: bytes | bytearray) -> bytes | None:
    """The signature in ``data``; None while it is not whole.

    Raises:
        Refused: it is none, or longer than it may be.
    """
    if len(data) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(data)
    if length > MOST_SIGNATURE_BYTES or len(data) > _LENGTH.size + length:
        raise Refused(Reason.MALFORMED)
    return bytes(data[_LENGTH.size :]) if len(data) == _LENGTH.size + length else None


# the dialler's part


def introduce(
    stream: socket.socket,
    ticket: bytes,
    holder: Holder,
    run: str,
    pair: Sequence[str],
    name: str,
    timeout: float,
) -> None:
    """Knock at a meeting point, and prove to be an end of a pair; `await_go` comes after that.

    Args:
        stream: to the meeting point.
        ticket: of the pair.
        holder: this site's credentials in the run.
        run: id of the run.
        pair: the two sites.
        name: of this site.
        timeout: seconds that it may take.

    Raises:
        Refused: the meeting point says why.
        OSError: it does not answer, or not as one does.
        ValueError: see `knock`.
    """
    deadline = time.monotonic() + timeout
    stream.settimeout(timeout)
    stream.sendall(knock(ticket, holder.chain()))
    word = _read(stream, 1, deadline)
    if word != _CHALLENGE:
        raise _answer(stream, word, deadline)
    nonce = _read(stream, NONCE_BYTES, deadline)
    stream.sendall(proof(holder.sign(statement(nonce, run, pair, name))))


def await_go(stream: socket.socket, timeout: float, ready: Callable[[float], bool] = lambda _: True) -> bool:
    """Wait until the other end is there.

    Args:
        stream: to the meeting point, after `introduce`.
        timeout: seconds that it may take.
        ready: called with the seconds that are left; waits until something has come, or returns False to
            give up.

    Returns:
        whether the other end is there; False where ``ready`` gave up.

    Raises:
        Refused: the meeting point says why.
        OSError: it has hung up, or does not answer as one does; TimeoutError: the other end did not come.
    """
    deadline = time.monotonic() + timeout
    if not ready(timeout):
        return False
    word = _read(stream, 1, deadline)
    if word != _GO:
        raise _answer(stream, word, deadline)
    return True


def _answer(stream: socket.socket, word: bytes, deadline: float) -> Exception:
    """What the meeting point says instead of what it should."""
    if word == _REFUSED:
        text = _read(stream, _REASON_BYTES, deadline).rstrip(b"\0").decode(errors="replace")
        if text in list(Reason):
            return Refused(Reason(text))
    return ConnectionError("it does not answer as a meeting point does")


def _read(stream: socket.socket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        stream.settimeout(left)
        piece = stream.recv(count - len(data))
        if not piece:
            raise ConnectionError("the meeting point hung up")
        data += piece
    return data
