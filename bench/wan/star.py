"""What a network of sites is to be like."""

from dataclasses import dataclass

from bench.wan.line import Shape


@dataclass(frozen=True)
class Star:
    """The network that is made.

    Attributes:
        addresses: of the sites.
        shape: of every line, in both directions.
        congestion: name of TCP's congestion control at the sites.
        whole: whether packets of TCP come uncut; then a loss would strike many segments at once.
        hub: the only address to which the others have a route; None where all reach each other.
        wide: an address in the middle of the network, whose line is never what limits; None for none.
    """

    addresses: tuple[str, ...]
    shape: Shape
    congestion: str
    whole: bool
    hub: str | None = None
    wide: str | None = None
