"""How sites mix: what they tell each other of their vectors, and the step towards what they know."""

from flaremesh.gossip.aggregation import aggregate_bytes
from flaremesh.gossip.encodings import message_bytes, spans
from flaremesh.gossip.gossip import Gossip, GossipError, Mixture

__all__ = ["Gossip", "GossipError", "Mixture", "aggregate_bytes", "message_bytes", "spans"]
