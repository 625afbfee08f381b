"""Vectors that travel in parts, over the links of a mesh and between the sites of a simulation."""

import pytest
import torch
from direct_mesh import in_parallel

from flaremesh.algorithms import create
from flaremesh.gossip.encodings import PART
from flaremesh.metrics.sink import Fanout
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.runtime.site_run import SiteRun
from flaremesh.topology.neighborhood import Neighborhood

SITES = ["a", "b"]
HOODS = {
    "a": Neighborhood("a", self_weight=0.75, in_weights={"b": 0.25}, out=("b",)),
    "b": Neighborhood("b", self_weight=0.75, in_weights={"a": 0.25}, out=("a",)),
}


class Long(Consensus):
    """More entries than a part has."""

    def __init__(self, site):
        super().__init__(site, dimension=PART + 5)


@pytest.mark.parametrize("wire", ["exact", "bfloat16", "int8"])
@pytest.mark.parametrize("mode", ["direct", "relay"])
def test_a_mesh_ends_with_the_bits_of_a_simulation(sites, wire, mode):
    algorithm, options = create("dgd", stepsize=0.1), RunOptions(4, peer_timeout=60.0, wire=wire)
    simulation = Simulation({site: [HOODS[site]] for site in SITES}, algorithm, Long, options)
    simulation.run()
    for site, other in (SITES, SITES[::-1]):
        sites.add(site, [other], [other], mode=mode)
    assert not any(sites.open().values())
    runs = {
        site: SiteRun(
            algorithm,
            Long(SiteContext(site, number, 2, 0)),
            [HOODS[site]],
            sites.links[site],
            Fanout(),
            options,
        )
        for number, site in enumerate(SITES)
    }
    assert not any(in_parallel({site: run.run for site, run in runs.items()}).values())
    for site in SITES:
        assert torch.equal(runs[site].estimate, simulation.sites[site].estimate)
