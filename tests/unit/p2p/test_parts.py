"""What the sites of an attempt are told, where others of the run are gone."""

import networkx as nx
import pytest

from flaremesh.p2p.controllers.parts import network_of_those, parts_of
from flaremesh.p2p.executors.assignment import part_of
from flaremesh.p2p.networks import network_of
from flaremesh.p2p.nvflare.server import _only_at
from flaremesh.p2p.types import Config, NetworkError
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.weights import mixing_matrix

SITES = ("bonn", "ulm", "worms", "essen")
RING = nx.DiGraph([edge for i in range(4) for edge in ((i, (i + 1) % 4), ((i + 1) % 4, i))])
CONFIG = Config(
    network_of(Mesh(SITES, RING, (mixing_matrix(RING, "metropolis"),))), {"iterations": 5}, {}, "metropolis"
)


def told(left):
    return parts_of(network_of_those(left, CONFIG), CONFIG, {"topology": "ring"})


def test_a_site_keeps_its_index_and_so_its_data_when_one_before_it_is_gone():
    parts = told(("bonn", "essen", "worms"))
    assert {site: (part.index, part.sites) for site, part in parts.items()} == {
        "bonn": (0, 4),
        "worms": (2, 4),
        "essen": (3, 4),
    }


def test_nobody_is_told_of_who_is_gone():
    parts = told(("bonn", "essen", "worms"))
    assert all(set(part.members) == {"bonn", "essen", "worms"} for part in parts.values())
    (bonn,) = parts["bonn"].schedule
    assert bonn.in_weights == pytest.approx({"essen": 1 / 3})
    assert bonn.self_weight == pytest.approx(2 / 3)
    assert bonn.out == ("essen",)


def test_sites_are_told_which_run_they_take_part_in_whatever_the_attempt():
    parts = parts_of(CONFIG.network, CONFIG, {}, "first")
    assert {part_of(part.__dict__, site).run_id for site, part in parts.items()} == {"first"}


def test_where_nobody_is_gone_the_network_is_that_of_the_job():
    assert network_of_those(SITES, CONFIG) is CONFIG.network


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(NetworkError, match="weights must be one of"):
        Config.of({**CONFIG.__dict__, "weights": "heaviest"})


META = {
    "deploy_map": {"app_server": ["server"], "app_sites": [*SITES]},
    "min_clients": 4,
    "mandatory_clients": [*SITES],
}


def test_a_job_of_fewer_sites_runs_at_these_and_needs_all_of_them():
    assert _only_at(("bonn", "ulm"), META) == {
        "deploy_map": {"app_server": ["server"], "app_sites": ["bonn", "ulm"]},
        "min_clients": 2,
        "mandatory_clients": ["bonn", "ulm"],
    }
    assert _only_at(SITES, META) == META
