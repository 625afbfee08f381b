"""What is kept of a measured round."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One round of one system in one turn.

    Attributes:
        way: name of it.
        sites, floats, system, turn: what was measured, and when.
        bytes: that each site hands to the network in an iteration, all its neighbours' together.
        seconds: of an iteration, the mean over sites and iterations, since sites stand still and catch up;
            None where it failed.
        parts: of that, medians in flaremesh's own history: waiting, encoding, mixing; {} of other systems.
        predicted: what `flaremesh plan` would have said, from edges measured just before; None of others.
    """

    way: str
    sites: int
    floats: int
    system: str
    turn: int
    bytes: int
    seconds: float | None
    parts: dict[str, float]
    predicted: float | None = None
