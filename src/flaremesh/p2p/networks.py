"""Networks made from graphs."""

from collections.abc import Iterator, Sequence

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from flaremesh.p2p.types import Neighbor, Network, NetworkError, Node
from flaremesh.topology.graphs import Digraph, phases
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import ErdosRenyi
from flaremesh.topology.weights import mixing_matrix

_ATTEMPTS = 1000
_LONELY = 10  # with more isolated sites than this expected, not one random graph in 20,000 is connected


def network_of(mesh: Mesh) -> Network:
    """The mesh as a Network, own weights included."""
    nodes = [[_node(hood) for hood in row] for row in zip(*mesh.schedules.values(), strict=True)]
    return Network(nodes=nodes[0], phases=nodes if len(nodes) > 1 else [])


def generate_random_network(
    num_clients: int, seed: int = 42, connection_probability: float = 0.3, *, p: float | None = None
) -> tuple[Network, NDArray[np.float64]]:
    """A connected Erdős–Rényi graph over site-1, …, site-n with Metropolis weights.

    Args:
        num_clients: n, at least 1.
        seed: fixes the network; no global random state is read or changed.
        connection_probability: that of an edge, in (0, 1].
        p: a shorter name for connection_probability.

    Returns:
        The network and its mixing matrix (n, n), doubly stochastic.

    Raises:
        NetworkError: an argument is out of range or in another's place, or the probability is so small that
            no connected graph turned up.
    """
    p = connection_probability if p is None else p
    if num_clients < 1:
        raise NetworkError(f"a network needs at least 1 client, not {num_clients}")
    if isinstance(seed, float) or seed < 0:
        raise NetworkError(
            f"the seed comes second and is a whole number from 0 on, not {seed:g}; "
            "give the probability of an edge by its name: connection_probability=0.3"
        )
    if not 0 < p <= 1:
        raise NetworkError(f"the probability of an edge must lie in (0, 1], not {p:g}")
    sites = tuple(f"site-{i + 1}" for i in range(num_clients))
    hopeless = num_clients * (1 - p) ** (num_clients - 1) > _LONELY
    for graph in () if hopeless else _random_graphs(sites, p, seed):
        if nx.is_strongly_connected(graph):
            matrix = mixing_matrix(graph, "metropolis")
            return network_of(Mesh(sites, graph, (matrix,))), matrix
    raise NetworkError(
        f"random graphs of {num_clients} sites are hardly ever connected here; take a p larger than {p:g}"
    )


def _random_graphs(sites: Sequence[str], p: float, seed: int) -> Iterator[Digraph]:
    for state in np.random.SeedSequence(seed).generate_state(_ATTEMPTS).tolist():
        (graph,) = phases(ErdosRenyi(kind="erdos-renyi", p=p, seed=state), sites)
        yield graph


def _node(hood: Neighborhood) -> Node:
    neighbors = [Neighbor(peer, weight) for peer, weight in hood.in_weights.items()]
    return Node(hood.site, neighbors, hood.self_weight)
