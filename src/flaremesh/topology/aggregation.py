"""Where secure aggregation hides a site's messages, and what it does not go together with."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import networkx as nx

from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import WireEncoding

Groups = tuple[tuple[str, ...], ...]
"""In-neighbours of a site that share masks, directly or by way of others: it learns the sum of each group."""

_SHOWN = 4  # sites and edges that a message names

WIRES: Collection[WireEncoding] = ("exact", "float32")


def groups(schedules: Mapping[str, Sequence[Neighborhood]]) -> dict[str, Groups]:
    """Of each site the groups of its in-neighbours, in a graph that does not change.

    Two in-neighbours of a site share masks if they are neighbours of each other both ways.
    """
    hoods = {site: hood for site, (hood,) in schedules.items()}
    mutual = nx.Graph(
        (site, peer)
        for site, hood in hoods.items()
        for peer in hood.in_weights
        if site in hoods[peer].in_weights
    )
    mutual.add_nodes_from(hoods)
    return {
        site: tuple(
            sorted(
                tuple(peer for peer in hood.in_weights if peer in group)
                for group in nx.connected_components(mutual.subgraph(hood.in_weights))
            )
        )
        for site, hood in hoods.items()
    }


def exposures(schedules: Mapping[str, Sequence[Neighborhood]]) -> dict[str, Groups]:
    """The groups of those sites that would learn more than one sum over two neighbours or more."""
    return {
        site: found
        for site, found in groups(schedules).items()
        if len(found) > 1 or any(len(group) == 1 for group in found)
    }


def edges_to_add(schedules: Mapping[str, Sequence[Neighborhood]]) -> list[tuple[str, str]]:
    """Edges with which no site learns more: between its neighbours, or to a neighbour's neighbour."""
    edges: dict[tuple[str, str], None] = {}
    for site, found in exposures(schedules).items():
        if len(found) > 1:
            pairs = [(one[0], other[0]) for one, other in pairwise(found)]
        else:
            ((peer,),) = found
            others = [other for (hood,) in [schedules[peer]] for other in hood.in_weights if other != site]
            pairs = [(site, others[0])] if others else []
        for one, other in pairs:
            edges[min(one, other), max(one, other)] = None
    return [*edges]


def unsoundness(schedules: Mapping[str, Sequence[Neighborhood]], *, symmetric: bool) -> str | None:
    """Why a graph does not let sites see sums alone, and what to write instead; None where it does.

    Args:
        schedules: each site's neighbourhood of each phase.
        symmetric: whether w_ij = w_ji.
    """
    if any(len(schedule) > 1 for schedule in schedules.values()):
        return (
            "secure aggregation needs neighbours that stay, and the graph changes; choose one that does not"
        )
    if not symmetric:
        return (
            "with secure aggregation a sender applies the weight, and w_ij is not w_ji here; write weights: "
            "metropolis, on an undirected graph"
        )
    exposed = exposures(schedules)
    if not exposed:
        return None
    who = "; ".join(f"{site} would see {seen(found)}" for site, found in [*exposed.items()][:_SHOWN])
    more = f"; and {len(exposed) - _SHOWN} more sites" if len(exposed) > _SHOWN else ""
    return f"secure aggregation needs neighbours that are joined: {who}{more}; {edges_in_words(schedules)}"


def edges_in_words(schedules: Mapping[str, Sequence[Neighborhood]]) -> str:
    """Which edges to add, in words."""
    if edges := edges_to_add(schedules):
        shown = ", ".join(f"{{from: {one}, to: {other}}}" for one, other in edges[:_SHOWN])
        more = f" and {len(edges) - _SHOWN} more" if len(edges) > _SHOWN else ""
        return f"add the edges {shown}{more}, or choose a graph with triangles, e.g. complete"
    return "it takes three sites or more, e.g. in a complete graph"


def seen(found: Groups) -> str:
    """What a site learns of these groups, in words."""
    return " and ".join(group[0] if len(group) == 1 else f"the sum of {', '.join(group)}" for group in found)


def conflict(encoding: str, clipped: bool, asynchronous: bool) -> tuple[tuple[str, ...], str, str] | None:
    """The field of a run that secure aggregation does not go together with, why, and the remedy."""
    if encoding not in WIRES:
        return (
            ("wire",),
            f"secure aggregation adds up integers on one grid, which wire: {encoding} does not send",
            "write wire: exact, or float32",
        )
    if clipped:
        return (
            ("mixing", "clip"),
            "clipping measures each neighbour's vector, and secure aggregation shows none",
            "remove clip, or secure_aggregation",
        )
    if asynchronous:
        return (
            ("asynchronous",),
            "masks cancel once all messages of an exchange have come, and asynchronous sites do not wait",
            "remove asynchronous, or secure_aggregation",
        )
    return None
