"""Frames that pass through the server, authenticated from site to site.

Two neighbours greet each other. A greeting holds a public key that its sender has made for this run (X25519,
RFC 7748), the receiver's such key where it is known already, the certificates that say who the sender is, and
its signature over both keys, the run and both names. A session begins with a greeting that names the own key:
one that was recorded, in this run or another, cannot. Both ends derive a key for each direction from what the
two keys agree on (HKDF, RFC 5869), and from then on each frame ends with a tag, BLAKE2b under that key (RFC
7693, 2.9) over all of the frame. The server can still read and drop frames, and no longer write any.
"""

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding

from flaremesh.links.credentials import Credentials, Untrusted, verify
from flaremesh.links.frame import FrameError
from flaremesh.links.link import Payload, Refusal

TAG_BYTES: Final = 16

_KEY_BYTES = 32
_NOBODY = bytes(_KEY_BYTES)  # in place of a key that is not known yet
_LENGTH_BYTES = 2
_GREETING_BYTES = 16 << 10  # two certificates take 2 to 4 KiB
_GREETING_SECONDS = 0.25  # each greeting of a peer costs a millisecond: it may send one in so long
_GREETING_BURST = 8  # and so many at once
_PATIENCE_SECONDS = 16.0  # between two greetings of a peer that does not answer, at most
_CONTEXT = "flaremesh relay 1"


@dataclass(frozen=True)
class Session:
    """The keys of one pair of sites, (32,) bytes each.

    Attributes:
        sending: of the tags of frames to the peer.
        receiving: of the tags of frames from it.
    """

    sending: bytes
    receiving: bytes

    def tag(self, *parts: Payload) -> bytes:
        """The tag of a frame to the peer that consists of ``parts``."""
        return _tag(self.sending, *parts)

    def opened(self, data: Payload) -> memoryview:
        """The frame in front of a right tag.

        Raises:
            FrameError: the tag is not the peer's, or there is none.
        """
        view = memoryview(data)
        frame, tag = view[:-TAG_BYTES], view[-TAG_BYTES:]
        if not compare_digest(tag, _tag(self.receiving, frame)):
            raise FrameError(Refusal.FORGED)
        return frame


class Answer(NamedTuple):
    """What a greeting led to.

    Attributes:
        greeting: to be sent back; None where the peer needs none.
        opened: whether the session has begun with it.
    """

    greeting: bytes | None
    opened: bool


@dataclass
class _Peer:
    """What is known of one peer.

    Attributes:
        session: None until the peer has named this site's key.
        key: the peer's public key in that session.
        due: when its greetings so far would have come at the permitted rate, by ``time.monotonic``.
        answers: greetings to it that have been signed, by the key that they name.
        again: when to greet it next, by ``time.monotonic``.
        patience: seconds to wait after that.
    """

    session: Session | None = None
    key: bytes = _NOBODY
    due: float = 0.0
    answers: dict[bytes, bytes] = field(default_factory=dict)
    again: float = math.inf
    patience: float = _GREETING_SECONDS


class Greeter:
    """One site's end of the sessions with its peers in one run.

    Args:
        site: name of this site.
        run_id: the run.
        peers: names of the peers.
        credentials: of this site.

    Raises:
        LinkError: the credentials cannot be used.
    """

    def __init__(self, site: str, run_id: str, peers: frozenset[str], credentials: Credentials):
        self._site, self._run_id, self._credentials = site, run_id, credentials
        self._certificates = b"".join(
            certificate.public_bytes(Encoding.PEM) for certificate in credentials.chain()
        )
        self._private = X25519PrivateKey.generate()
        self._key = self._private.public_key().public_bytes_raw()
        self._peers = {peer: _Peer() for peer in peers}
        self._lock = threading.Lock()

    def session(self, peer: str) -> Session | None:
        """The session with a peer; None where none has begun."""
        return self._peers[peer].session

    def begin(self) -> None:
        """Greet all peers from now on, until they answer."""
        with self._lock:
            for peer in self._peers.values():
                if peer.session is None:
                    peer.again = time.monotonic()

    def due(self, now: float) -> Iterator[tuple[str, bytes]]:
        """The peers that must be greeted at the time ``now``, each with the greeting."""
        for name, peer in self._peers.items():
            if peer.again <= now:
                peer.again = now + peer.patience
                peer.patience = min(2 * peer.patience, _PATIENCE_SECONDS)
                yield name, self.greeting(name)

    def next_due(self) -> float:
        """When a peer must be greeted next, by ``time.monotonic``."""
        return min((peer.again for peer in self._peers.values()), default=math.inf)

    def greeting(self, peer: str, named: bytes = _NOBODY) -> bytes:
        """A greeting to ``peer``, which names its key if that is known."""
        answers = self._peers[peer].answers
        if named not in answers:
            if len(answers) > 1:  # an honest peer has one key
                answers.clear()
            signature = self._credentials.sign(self._content(self._site, peer, self._key, named))
            length = len(signature).to_bytes(_LENGTH_BYTES, "little")
            answers[named] = b"".join((self._key, named, length, signature, self._certificates))
        return answers[named]

    def hear(self, peer: str, greeting: Payload) -> Answer:
        """Take in a greeting that came in the name of ``peer``.

        Raises:
            FrameError: it is none, not the peer's, not for this site and run, or one too many.
        """
        with self._lock:
            known, now = self._peers[peer], time.monotonic()
            if known.due - now > _GREETING_BURST * _GREETING_SECONDS:
                raise FrameError(Refusal.OVERLOAD)
            known.due = max(known.due, now) + _GREETING_SECONDS
            key, named = self._verified(peer, bytes(greeting[:_GREETING_BYTES]))
            if named != self._key:
                return Answer(self.greeting(peer, key), opened=False)
            if known.session is None:
                known.session, known.key, known.again = self._derive(peer, key), key, math.inf
                return Answer(self.greeting(peer, key), opened=True)
            if key != known.key:
                raise FrameError(Refusal.REPLAYED)
            return Answer(None, opened=False)

    def _verified(self, peer: str, greeting: bytes) -> tuple[bytes, bytes]:
        """The sender's key in a greeting of ``peer``, and the one that it names as this site's."""
        key, named = greeting[:_KEY_BYTES], greeting[_KEY_BYTES : 2 * _KEY_BYTES]
        rest = greeting[2 * _KEY_BYTES :]
        length = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES], "little")
        signature, certificates = rest[_LENGTH_BYTES:length], rest[length:]
        try:
            chain = x509.load_pem_x509_certificates(certificates)
        except (ValueError, x509.InvalidVersion):
            raise FrameError(Refusal.MALFORMED) from None
        try:
            name = self._credentials.identify(chain)
        except Untrusted as error:
            raise FrameError(error.reason) from None
        if name != peer or not verify(self._content(peer, self._site, key, named), signature, chain[0]):
            raise FrameError(Refusal.FORGED)
        return key, named

    def _content(self, sender: str, receiver: str, key: bytes, named: bytes) -> bytes:
        return self._edge(sender, receiver) + key + named

    def _edge(self, sender: str, receiver: str) -> bytes:
        return json.dumps([_CONTEXT, self._run_id, sender, receiver]).encode()

    def _derive(self, peer: str, key: bytes) -> Session:
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(key))
        except ValueError:  # a key with which anybody would agree on nothing
            raise FrameError(Refusal.MALFORMED) from None
        own, other = (self._site, self._key), (peer, key)

        def direction(sender: tuple[str, bytes], receiver: tuple[str, bytes]) -> bytes:
            edge = self._edge(sender[0], receiver[0])
            return HKDF(SHA256(), _KEY_BYTES, None, edge + sender[1] + receiver[1]).derive(secret)

        return Session(sending=direction(own, other), receiving=direction(other, own))


def _tag(key: bytes, *parts: Payload) -> bytes:
    digest = blake2b(key=key, digest_size=TAG_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()
