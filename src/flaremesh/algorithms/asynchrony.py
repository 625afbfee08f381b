"""Whether a run is sound in which no site waits for another one."""

from typing import Any

from flaremesh.algorithms.protocol import Algorithm


def asynchrony_unsoundness(
    algorithm: type[Algorithm[Any]], *, symmetric: bool, phases: int, keeps_copies: bool
) -> str | None:
    """Why an algorithm would not do what it promises there, and what to write instead; None if it would.

    Args:
        algorithm: its class.
        symmetric: whether the mixing matrices are.
        phases: how many take turns.
        keeps_copies: whether the wire keeps copies of what neighbours have, which must hear of everything.
    """
    if not vars(algorithm).get("asynchronous", False):  # a subclass exchanges something else
        return "the algorithm relies on messages of one iteration; run gradient-tracking, k-gt or r-fast"
    if phases > 1:
        return f"{phases} mixing matrices take turns; choose a graph that stays"
    if not symmetric:
        return (
            "the mixing matrix is not symmetric; write weights: metropolis, on a graph with edges both ways"
        )
    if keeps_copies:
        return "the wire keeps copies, and a site that is behind is left out; write wire: bfloat16 or exact"
    return None
