"""What a wire costs in computing: ``python -m flaremesh.gossip.cost`` prints it as JSON.

A vector of a million float32 entries is published and mixed as in a run, which takes one core; one that fits
into a cache costs less.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import get_args

import torch

from flaremesh.gossip.gossip import Gossip
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Wire, WireEncoding

ENTRIES = 1_000_000
_REPEATS = 4  # of which the fastest counts: others may use the core, too


def cost(wire: Wire, entries: int = ENTRIES) -> dict[str, float]:
    """Seconds of one core per entry of a vector (entries,) float32.

    Returns:
        ``encode``: to write it; ``mix``: to take a step; ``decode``: for each in-neighbour of that.
    """
    encode, one = _least(wire, entries, ["a"])
    _, two = _least(wire, entries, ["a", "b"])
    decode = max(0.0, two - one)
    return {
        "encode": encode / entries,
        "mix": max(0.0, one - decode) / entries,
        "decode": decode / entries,
    }


def _least(wire: Wire, entries: int, peers: Sequence[str]) -> tuple[float, float]:
    """Seconds to publish, and to mix with what these neighbours sent."""
    share = 1 / (1 + len(peers))
    hood = Neighborhood("here", share, dict.fromkeys(peers, share), tuple(peers))
    gossip = Gossip(wire)
    vector = torch.rand(entries, generator=torch.Generator().manual_seed(0))
    encodings, mixings = [], []
    for _ in range(_REPEATS):
        begun = time.process_time()
        published = [*gossip.publish([vector])]
        encodings.append(time.process_time() - begun)
        parts = [b"".join(bytes(buffer) for buffer in buffers) for buffers in published]
        begun = time.process_time()
        (vector,) = gossip.mix(hood, [dict.fromkeys(peers, part) for part in parts]).vectors
        mixings.append(time.process_time() - begun)
    return min(encodings), min(mixings)


if __name__ == "__main__":
    json.dump({name: cost(Wire.of(name)) for name in get_args(WireEncoding)}, sys.stdout)
