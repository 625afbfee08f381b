"""Random networks."""

import torch
from torch import Tensor

from flaremesh.p2p import networks
from flaremesh.p2p.types import Network, Node


def generate_random_network(
    num_clients: int, seed: int = 42, connection_probability: float = 0.3
) -> tuple[Network, Tensor]:
    """A connected Erdős–Rényi graph over site-1, …, site-n with Metropolis weights.

    Args:
        num_clients: n, at least 1.
        seed: fixes the network.
        connection_probability: of an edge, in (0, 1].

    Returns:
        The network and its mixing matrix (n, n) float32. The nodes have no own weight, so that their rows
        still sum to one when neighbours are taken out.
    """
    network, matrix = networks.generate_random_network(num_clients, seed, connection_probability)
    nodes = [Node(node.id, node.neighbors) for node in network.nodes]
    return Network(nodes), torch.from_numpy(matrix).float()
