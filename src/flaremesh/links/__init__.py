"""How neighbours exchange buffers: one link per site and run, one carrier per way for them to travel."""

from flaremesh.links.errors import (
    EdgeLost,
    LinkClosed,
    LinkError,
    LinkRefused,
    PeerBehind,
    PeerTimeout,
    RunAborted,
)
from flaremesh.links.link import (
    Cancelled,
    Key,
    Link,
    LinkObserver,
    Payload,
    Refusal,
    require_length,
    send_in_time,
)
from flaremesh.topology.links import LinkKind

__all__ = [
    "Cancelled",
    "EdgeLost",
    "Key",
    "Link",
    "LinkClosed",
    "LinkError",
    "LinkKind",
    "LinkObserver",
    "LinkRefused",
    "Payload",
    "PeerBehind",
    "PeerTimeout",
    "Refusal",
    "RunAborted",
    "require_length",
    "send_in_time",
]
