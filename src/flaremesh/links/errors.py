"""What may go wrong on a link, in one tree; no other exception leaves this package.

    LinkError
    ├── LinkRefused    one end does not accept who the other one is
    ├── LinkClosed     this end was closed before
    ├── PeerTimeout    messages did not come in time
    ├── PeerBehind     a peer does not take what is sent to it
    ├── EdgeLost       an edge broke and cannot be made again
    └── RunAborted     the run was aborted

Each message names the peer and the cause, and needs nothing else to be understood.
"""

from collections.abc import Collection, Mapping

from flaremesh.errors import FlaremeshError


class LinkError(FlaremeshError):
    """A link cannot do what was asked."""


class LinkRefused(LinkError):
    """One end of a link does not accept who the other one is."""


class LinkClosed(LinkError):
    """The link was closed before."""


class PeerTimeout(LinkError):
    """The message of some in-neighbours did not come before the deadline.

    Attributes:
        peers: the in-neighbours.
        iteration: of the message; negative before the first.
        seconds: that were waited.
        conditions: what is known of a peer's link, in words, by peer.
    """

    def __init__(
        self,
        peers: Collection[str],
        iteration: int,
        seconds: float,
        conditions: Mapping[str, str] | None = None,
    ):
        self.peers = sorted(peers)
        self.iteration = iteration
        self.seconds = seconds
        known = conditions or {}
        missing = ", ".join(f"{peer} ({known[peer]})" if peer in known else peer for peer in self.peers)
        super().__init__(
            f"no value from {missing} for iteration {iteration} within {seconds:g} s"
            if iteration >= 0
            else f"no sign of {missing} within {seconds:g} s of the start"
        )


class PeerBehind(LinkError):
    """As many messages wait for a peer as are kept for it."""


class EdgeLost(LinkError):
    """The connection with a peer broke, and cannot be made again by any carrier that the edge may use."""


class RunAborted(LinkError):
    """The run was aborted: who waits or sends need not go on."""
