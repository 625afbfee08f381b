"""The network as dataclasses: copies, JSON, and what is refused."""

import copy
import json
import math
import pickle
from dataclasses import asdict

import pytest
from nvflare.job_config.api import FedJob

from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.executors import ConsensusExecutor
from flaremesh.p2p.types import Config, LocalConfig, Neighbor, Network, Node

RING = Network(
    nodes=[
        Node("bonn", [Neighbor("ulm", 0.1)]),
        Node("ulm", [Neighbor("worms", 0.2)]),
        Node("worms", [Neighbor("bonn", 0.3)]),
    ]
)
CONFIG = Config(network=RING, extra={"iterations": 3, "stepsize": 0.5})
LOCAL = LocalConfig(
    neighbors=RING.nodes[0].neighbors, extra=CONFIG.extra, schedule=RING.schedules()["bonn"], index=0, sites=3
)


@pytest.mark.parametrize("value", [*RING.nodes[0].neighbors, RING.nodes[0], RING, CONFIG, LOCAL])
@pytest.mark.parametrize(
    "through",
    [
        lambda value: pickle.loads(pickle.dumps(value)),
        copy.copy,
        copy.deepcopy,
        lambda value: type(value)(**json.loads(json.dumps(asdict(value)))),
    ],
    ids=["pickle", "copy", "deepcopy", "json"],
)
def test_copies_are_equal(value, through):
    assert through(value) == value


@pytest.fixture
def job():
    job = FedJob(name="ring")
    job.to_server(DistOptController(config=CONFIG))
    for node in RING.nodes:
        job.to(ConsensusExecutor(initial_value=1.0), node.id)
    return job


def test_a_fed_job_hands_the_whole_configuration_to_the_controller(job, tmp_path):
    job.export_job(str(tmp_path))
    server = json.loads((tmp_path / "ring/app_server/config/config_fed_server.json").read_text())
    assert Config(**server["workflows"][0]["args"]["config"]) == CONFIG


def test_a_fed_job_of_flaremeshs_own_classes_carries_no_code(job, tmp_path):
    job.export_job(str(tmp_path))
    assert not list(tmp_path.rglob("custom"))


def test_a_site_of_a_fed_job_asks_for_its_next_task_without_delay(job, tmp_path):
    job.export_job(str(tmp_path))
    server = json.loads((tmp_path / "ring/app_server/config/config_fed_server.json").read_text())
    assert server["server"]["task_request_interval"] < 1


def test_a_site_keeps_what_its_neighbours_leave():
    assert RING.matrices() == [[[0.9, 0.1, 0], [0, 0.8, 0.2], [0.3, 0, 0.7]]]


def test_a_directed_edge_is_sent_along_its_direction_only():
    hood = RING.schedules()["bonn"][0]
    assert hood.in_weights == {"ulm": 0.1}
    assert hood.out == ("worms",)


def test_a_node_without_neighbours_neither_sends_nor_waits():
    network = Network(nodes=[*RING.nodes, Node("alone")])
    hood = network.schedules()["alone"][0]
    assert (hood.in_weights, hood.out, hood.self_weight) == ({}, (), 1)


@pytest.mark.parametrize("weight", [None, -0.1, 0.0, 1.1, math.nan, math.inf])
def test_a_weight_outside_its_range_is_refused_with_both_names(weight):
    network = Network(nodes=[Node("bonn", [Neighbor("ulm", weight)]), Node("ulm")])
    with pytest.raises(ValueError, match=r"bonn gives ulm the weight .*it must lie in \(0, 1\]"):
        network.schedules()


@pytest.mark.parametrize("weight", [-0.5, 1.5, math.nan, math.inf])
def test_an_own_weight_outside_its_range_is_refused_with_the_name(weight):
    network = Network(nodes=[Node("bonn", [Neighbor("ulm", 0.5)], weight), Node("ulm")])
    with pytest.raises(ValueError, match=r"bonn gives itself the weight .*it must lie in \[0, 1\]"):
        network.schedules()


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [Node("bonn", [Neighbor("ulm", 0.6), Neighbor("worms", 0.6)]), Node("ulm"), Node("worms")],
            r"the weights of bonn's neighbours sum to 1\.2, more than 1",
        ),
        ([Node("bonn", [Neighbor("ulm", 0.5)])], "bonn lists ulm, which is no node"),
        ([Node("bonn", [Neighbor("bonn", 0.5)])], "bonn lists a neighbour twice or itself"),
        (
            [Node("bonn", [Neighbor("ulm", 0.2), Neighbor("ulm", 0.3)]), Node("ulm")],
            "bonn lists a neighbour twice or itself",
        ),
        ([Node("bonn"), Node("bonn")], "bonn is listed twice"),
        ([], "the network has no nodes"),
    ],
)
def test_a_network_that_makes_no_sense_is_refused_with_the_node(nodes, message):
    with pytest.raises(ValueError, match=message):
        Network(nodes=nodes).schedules()


def test_every_phase_lists_every_node():
    network = Network(nodes=[Node("bonn"), Node("ulm")], phases=[[Node("bonn"), Node("ulm")], [Node("bonn")]])
    with pytest.raises(ValueError, match="ulm is not in every phase: see phase 1"):
        network.schedules()


def test_a_network_given_by_its_phases_has_the_sites_of_the_first():
    network = Network(phases=[[Node("bonn"), Node("ulm")], [Node("bonn"), Node("ulm")]])
    assert [node.id for node in network.nodes] == ["bonn", "ulm"]


@pytest.mark.parametrize(("extra", "seconds"), [({}, 300.0), ({"start_timeout": 20.0}, 20.0)])
def test_sites_wait_for_the_start_as_long_as_their_controller(extra, seconds):
    controller = DistOptController(Config(Network([Node("bonn")]), extra), start_timeout=300.0)
    assert controller.config.extra["start_timeout"] == seconds
