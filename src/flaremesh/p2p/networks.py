"""Networks made from graphs."""

from collections.abc import Iterator, Sequence

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from flaremesh.p2p.types import Neighbor, Network, Node
from flaremesh.topology.graphs import Digraph, phases
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import ErdosRenyi
from flaremesh.topology.weights import mixing_matrix

_ATTEMPTS = 1000


def network_of(mesh: Mesh) -> Network:
    """The mesh as a Network, own weights included."""
    nodes = [[_node(hood) for hood in row] for row in zip(*mesh.schedules.values(), strict=True)]
    return Network(nodes=nodes[0], phases=nodes if len(nodes) > 1 else [])


def generate_random_network(
    num_clients: int, p: float = 0.3, seed: int = 42
) -> tuple[Network, NDArray[np.float64]]:
    """A connected Erdős–Rényi graph over site-1, …, site-n with Metropolis weights.

    Args:
        num_clients: n, at least 2.
        p: probability of an edge.
        seed: fixes the network; no global random state is read or changed.

    Returns:
        The network and its mixing matrix (n, n), doubly stochastic.

    Raises:
        ValueError: n or p is out of range, or p is so small that no connected graph turned up.
    """
    if num_clients < 2:
        raise ValueError(f"a network needs at least 2 clients, not {num_clients}")
    sites = tuple(f"site-{i + 1}" for i in range(num_clients))
    for graph in _random_graphs(sites, p, seed):
        if nx.is_strongly_connected(graph):
            matrix = mixing_matrix(graph, "metropolis")
            return network_of(Mesh(sites, graph, (matrix,))), matrix
    raise ValueError(
        f"none of {_ATTEMPTS} random graphs of {num_clients} sites is connected; take a p larger than {p:g}"
    )


def _random_graphs(sites: Sequence[str], p: float, seed: int) -> Iterator[Digraph]:
    for state in np.random.SeedSequence(seed).generate_state(_ATTEMPTS).tolist():
        (graph,) = phases(ErdosRenyi(kind="erdos-renyi", p=p, seed=state), sites)
        yield graph


def _node(hood: Neighborhood) -> Node:
    neighbors = [Neighbor(peer, weight) for peer, weight in hood.in_weights.items()]
    return Node(hood.site, neighbors, hood.self_weight)
