"""How neighbours exchange buffers: one protocol, one module per transport."""

from flaremesh.links.protocol import (
    Cancelled,
    Key,
    Link,
    LinkError,
    LinkObserver,
    Payload,
    PeerTimeout,
    RunAborted,
    require_length,
)
from flaremesh.topology.links import LinkKind

__all__ = [
    "Cancelled",
    "Key",
    "Link",
    "LinkError",
    "LinkKind",
    "LinkObserver",
    "Payload",
    "PeerTimeout",
    "RunAborted",
    "require_length",
]
