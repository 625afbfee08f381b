"""Secrets that two neighbours share, new ones in each attempt at a run, and what is drawn from them."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from secrets import token_bytes
from typing import Final

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from flaremesh.links import Key, Link, require_length, send_in_time
from flaremesh.topology.neighborhood import Neighborhood

SECRET_BYTES: Final = 32

_ITERATION: Final = -4
"""Number of the messages: -1 to -3 are greetings, initial points, and estimates for who joins."""

_ZEROS: Final = memoryview(bytes(1 << 18))


def peers_of(schedule: Sequence[Neighborhood]) -> list[str]:
    """The sites with which one shares an edge in some phase, whichever way it leads."""
    return sorted(set().union(*(hood.out for hood in schedule), *(hood.in_weights for hood in schedule)))


def agree(link: Link, schedule: Sequence[Neighborhood], timeout: float) -> dict[str, bytes]:
    """A secret with each site with which this one shares an edge.

    Whoever sends to the other one in the run sends its part of it first, over the link of the two, which
    nobody else reads; so both contribute, unless all edges of the pair lead one way.

    Args:
        link: the site's.
        schedule: its neighbourhood of each phase.
        timeout: seconds to wait for a neighbour.

    Raises:
        LinkError: a neighbour's part did not come, or has another length.
    """
    site = schedule[0].site
    users = sorted({user for hood in schedule for user in hood.out})
    sources = sorted({source for hood in schedule for source in hood.in_weights})
    own = {user: token_bytes(SECRET_BYTES) for user in users}
    for user in users:
        send_in_time(link, user, Key(_ITERATION, 0, site), [own[user]], timeout)
    received = link.receive([Key(_ITERATION, 0, source) for source in sources], timeout) if sources else {}
    theirs = {}
    for key, payload in received.items():
        require_length(payload, SECRET_BYTES, key.sender)
        theirs[key.sender] = bytes(payload)
    return {
        peer: _joined({site: own.get(peer, b""), peer: theirs.get(peer, b"")}) for peer in peers_of(schedule)
    }


def repeatable(seed: int, schedule: Sequence[Neighborhood]) -> dict[str, bytes]:
    """The secrets of a site in a simulation, which are the same whenever it is repeated."""
    site = schedule[0].site
    return {
        peer: _joined({name: f"{seed} {name}".encode() for name in (site, peer)})
        for peer in peers_of(schedule)
    }


def _joined(parts: Mapping[str, bytes]) -> bytes:
    digest = blake2b(digest_size=SECRET_BYTES)
    for name in sorted(parts):
        digest.update(blake2b(parts[name], key=name.encode()).digest())
    return digest.digest()


class Keystream:
    """Bytes that nobody can tell from random ones who does not know the secret: AES-256 in counter mode.

    Args:
        secret: a site's own, or that of two neighbours.
        label: what it is for; no label is used twice for what differs.
    """

    def __init__(self, secret: bytes, label: str):
        # a key for this label alone, so that the counter may begin at 0
        key = blake2b(label.encode(), key=secret, digest_size=32).digest()
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def fill(self, out: memoryview) -> None:
        """Write the next bytes to ``out``."""
        for start in range(0, len(out), len(_ZEROS)):
            part = out[start : start + len(_ZEROS)]
            self._cipher.update_into(_ZEROS[: len(part)], part)

    def integers(self, count: int) -> NDArray[np.uint64]:
        """The next integers (count,), evenly distributed over all of 64 bits."""
        drawn = bytearray(8 * count)
        self.fill(memoryview(drawn))
        return np.frombuffer(drawn, "<u8")


def normal(secret: bytes, label: str, like: Tensor) -> Tensor:
    """Standard normal numbers (d,) of the dtype and device of ``like`` (d,), others for each label.

    Computed in float64 by Box's and Muller's formula. Two sites get the same ones up to what their
    mathematical libraries differ by, which is the last bit.
    """
    half = (like.numel() + 1) // 2
    uniform = (Keystream(secret, label).integers(2 * half) >> np.uint64(11)) * 2.0**-53
    radius = np.sqrt(-2 * np.log1p(-uniform[:half]))  # 1 - u is never 0
    angle = 2 * np.pi * uniform[half:]
    numbers = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: like.numel()]
    return torch.from_numpy(numbers).to(like)
