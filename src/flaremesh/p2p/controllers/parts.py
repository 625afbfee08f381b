"""What the sites of an attempt are told of the network: the part of each."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from flaremesh.p2p.extra import privacy_of
from flaremesh.p2p.networks import network_of
from flaremesh.p2p.types import Config, LocalConfig, Network, NetworkError
from flaremesh.topology.aggregation import unsoundness
from flaremesh.topology.analysis import analyse
from flaremesh.topology.neighborhood import hops, with_partners
from flaremesh.topology.survivors import survivors


def network_of_those(sites: Collection[str], config: Config) -> Network:
    """The network of the sites that take part; raises NetworkError, or as `survivors` does."""
    whole = config.network
    names = [node.id for node in whole.nodes]
    if set(names) <= set(sites):
        return whole
    matrices = [np.array(matrix) for matrix in whole.matrices()]
    return network_of(survivors(names, matrices, config.weights, sites))


def parts_of(
    network: Network, config: Config, labels: Mapping[str, Any], run_id: str = ""
) -> dict[str, LocalConfig]:
    """The part of each site that takes part, which keeps its index, and so its data.

    Args:
        network: of the sites that take part.
        config: of the run with all sites.
        labels, run_id: as LocalConfig has them.

    Raises:
        NetworkError: the network is none, or hides no messages where that is asked for.
    """
    everyone = [node.id for node in config.network.nodes]
    schedules, parents = network.schedules(), network.spanning_tree()
    far = hops(schedules)
    mixing = analyse([np.array(matrix) for matrix in network.matrices()])
    if privacy_of(config.extra).secure_aggregation:
        if reason := unsoundness(schedules, symmetric=mixing.symmetric):
            raise NetworkError(reason)
        schedules = with_partners(schedules)
    return {
        site: LocalConfig(
            neighbors=network.node(site).neighbors,
            extra=config.extra,
            schedule=schedule,
            index=everyone.index(site),
            sites=len(everyone),
            members=list(schedules),
            parent=parents.get(site),
            children=[child for child, parent in parents.items() if parent == site],
            labels=dict(labels),
            run_id=run_id,
            link=config.links.get(site),
            row_stochastic=mixing.row_stochastic,
            column_stochastic=mixing.column_stochastic,
            symmetric=mixing.symmetric,
            hops=far,
        )
        for site, schedule in schedules.items()
    }
