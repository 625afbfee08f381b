"""The network as dataclasses: copies, JSON, and what is refused."""

import copy
import json
import math
import pickle
from dataclasses import asdict
from enum import Enum

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nvflare.app_opt.p2p import types as stock
from nvflare.fuel.utils.component_builder import ComponentBuilder
from nvflare.job_config.api import FedJob

from flaremesh.p2p import types as ours
from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.executors import ConsensusExecutor
from flaremesh.p2p.types import Config, LocalConfig, Neighbor, Network, NetworkError, Node

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
        lambda value: type(value)(**json.loads(json.dumps(vars(value)))),
        lambda value: type(value).of(json.loads(json.dumps(value.__dict__))),
    ],
    ids=["pickle", "copy", "deepcopy", "json", "vars", "of"],
)
def test_copies_are_equal(value, through):
    assert through(value) == value


def test_copies_have_the_attributes_that_were_added():
    node = Node("bonn")
    node.colour = "red"
    assert copy.deepcopy(node).colour == pickle.loads(pickle.dumps(node)).colour == "red"


@pytest.mark.parametrize(
    "make",
    [
        lambda types: types.Neighbor("ulm"),
        lambda types: types.Neighbor(id=2, weight=0.25),
        lambda types: types.Node(),
        lambda types: types.Node(3, [types.Neighbor(4, 0.5), {"id": "ulm"}]),
        lambda types: types.Network(),
        lambda types: types.Network([types.Node("bonn", ({"id": "ulm", "weight": 1},)), {"id": "ulm"}]),
        lambda types: types.Config(types.Network([types.Node("bonn")])),
        lambda types: types.Config(network={"nodes": [{"id": "bonn"}]}, extra={"iterations": 3, "x": [1]}),
    ],
)
def test_the_json_of_an_object_is_that_of_the_stock_package(make):
    theirs, own = make(stock), make(ours)
    assert vars(own) == vars(theirs)
    assert type(own).of(theirs) == own


@pytest.mark.parametrize(
    ("make", "json"),
    [
        (lambda: Node("bonn", [], 0.0), {"id": "bonn", "neighbors": [], "weight": 0.0}),
        (
            lambda: Network(phases=[[Node("bonn")]]),
            {"nodes": [{"id": "bonn", "neighbors": []}], "phases": [[{"id": "bonn", "neighbors": []}]]},
        ),
        (
            lambda: LocalConfig([Neighbor("ulm", 0.5)], row_stochastic=False),
            {"neighbors": [{"id": "ulm", "weight": 0.5}], "extra": {}, "row_stochastic": False},
        ),
    ],
)
def test_what_only_flaremesh_has_is_in_the_json_where_it_is_set(make, json):
    assert vars(make()) == json


class Rule(Enum):
    MEAN = "mean"


def test_numbers_of_numpy_and_torch_become_plain_ones_in_the_json():
    config = Config(
        network=Network(
            [
                Node(np.str_("bonn"), [Neighbor("ulm", np.float32(0.5))]),
                Node("ulm", [Neighbor("bonn", torch.tensor(0.25))]),
            ]
        ),
        extra={
            "iterations": np.int64(3),
            "stepsize": torch.tensor(0.5),
            "seeds": (1, np.arange(2)),
            "rule": Rule.MEAN,
            np.int64(7): None,
        },
    )
    assert json.loads(json.dumps(vars(config))) == {
        "network": {
            "nodes": [
                {"id": "bonn", "neighbors": [{"id": "ulm", "weight": 0.5}]},
                {"id": "ulm", "neighbors": [{"id": "bonn", "weight": 0.25}]},
            ]
        },
        "extra": {"iterations": 3, "stepsize": 0.5, "seeds": [1, [0, 1]], "rule": "mean", "7": None},
    }
    assert type(config.network.nodes[0].neighbors[0].weight) is float


def test_a_configuration_keeps_the_dict_it_was_given():
    extra = {}
    config = Config(RING, extra)
    extra["iterations"] = 3
    assert config.extra == {"iterations": 3}
    assert Config(RING, None).extra == {}


class Carrier(ConsensusExecutor):
    """An executor with the package's objects among its arguments."""

    def __init__(self, plan=None, network=None, node=None, neighbor=None):
        super().__init__()
        self._plan = plan
        self.network = network
        self.node = node
        self.neighbor = neighbor


class Builder(ComponentBuilder):
    """NVFlare's own, without its table of short names."""

    def get_module_scanner(self):
        return None


def test_objects_among_the_arguments_of_a_component_come_back_from_the_job(tmp_path):
    job = FedJob(name="ring")
    job.to(Carrier(CONFIG, RING, RING.nodes[0], RING.nodes[0].neighbors[0]), "bonn")
    job.export_job(str(tmp_path))
    (written,) = tmp_path.glob("ring/*/config/config_fed_client.json")
    carrier = Builder().build_component(json.loads(written.read_text())["executors"][0]["executor"])
    assert carrier._plan == CONFIG
    assert (carrier.network, carrier.node, carrier.neighbor) == (
        RING,
        RING.nodes[0],
        RING.nodes[0].neighbors[0],
    )


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "None is no Config; give one, or a dict with network, extra, links"),
        ({"extra": {}}, "a Config needs the field network"),
        ({"network": {}, "iterations": 3}, "a Config has no field 'iterations', only network, extra, links"),
        (
            {"network": {"nodes": [{"id": "a", "neighbours": []}]}},
            "a Node has no field 'neighbours', only id, neighbors",
        ),
        ({"network": {"nodes": ["a"]}}, "a str is no Node; give one, or a dict with id"),
        ({"network": {"nodes": "ab"}}, "the nodes of a network must be a list, not a str"),
        ({"network": {"nodes": None}}, "the nodes of a network must be a list, not None"),
        (
            {"network": {"nodes": [{"id": "a", "neighbors": {"id": "b"}}]}},
            "the neighbors of a must be a list",
        ),
        (
            {"network": {"nodes": [{"id": "a", "neighbors": ["b"]}]}},
            "a str is no Neighbor; give one, or a dict",
        ),
        (
            {"network": {"nodes": [{"id": "a", "neighbors": [{"weight": 1}]}]}},
            "a Neighbor needs the field id",
        ),
        ({"network": {"phases": True}}, "the phases of a network must be a list, not True"),
        ({"network": None}, "None is no Network"),
        ({"network": {}, "extra": [3]}, "extra must be a dict, not a list"),
        (
            {"network": {}, "extra": {"model": torch.nn.Linear(1, 1)}},
            r"\['extra'\]\['model'\] is of the type Linear",
        ),
        ({"network": {}, "extra": {"a": [{1}]}}, r"\['extra'\]\['a'\]\[0\] is of the type set"),
        ({"network": {}, "extra": {("a", 1): 2}}, r"has the key \('a', 1\)"),
        ({"network": {}, "extra": {"z": 1j}}, "is of the type complex"),
    ],
)
def test_what_is_no_configuration_is_refused_with_its_place(value, sentence):
    with pytest.raises(NetworkError, match=sentence):
        Config.of(value)


@pytest.mark.parametrize(
    ("links", "sentence"),
    [
        ({"ulm": {"host": "localhost", "ports": [8110, 8113]}}, "dial ulm, which is no node"),
        ({"bonn": "localhost:8110"}, r"\[low, high\]} for bonn"),
        ({"bonn": {"host": "localhost", "ports": [8113, 8110]}}, "for bonn"),
        ({"bonn": {"host": "localhost", "ports": [1, 2], "port": 3}}, "for bonn"),
        (["bonn"], "links must be a dict"),
    ],
)
def test_a_link_that_nobody_could_dial_is_refused(links, sentence):
    with pytest.raises(NetworkError, match=sentence):
        Config.of({"network": {"nodes": [{"id": "bonn"}]}, "links": links})


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def almost(names, **fields):
    """Dicts with mostly the right fields and mostly the right kind of value."""
    fields = {name: values | anything for name, values in fields.items()}
    return st.fixed_dictionaries({name: fields.pop(name) for name in names}, optional=fields) | anything


neighbors = almost(["id"], id=st.sampled_from(["a", "b"]), weight=st.floats(0, 1))
nodes = almost(
    ["id"], id=st.sampled_from(["a", "b"]), neighbors=st.lists(neighbors, max_size=3), weight=st.floats(0, 1)
)
configs = almost(
    ["network"],
    network=almost(
        ["nodes"], nodes=st.lists(nodes, max_size=3), phases=st.lists(st.lists(nodes, max_size=3), max_size=2)
    ),
    extra=st.dictionaries(st.text(max_size=3), anything, max_size=3),
    links=st.dictionaries(
        st.sampled_from(["a", "b"]), almost(["host"], host=st.text(max_size=3), ports=st.lists(st.integers()))
    ),
)


@settings(derandomize=True, max_examples=500)
@given(configs)
def test_whatever_a_configuration_says_it_is_one_or_a_sentence(value):
    try:
        config = Config.of(value)
        matrices = config.network.matrices()
    except NetworkError:
        return
    assert Config.of(json.loads(json.dumps(vars(config)))).network.matrices() == matrices


def test_a_configuration_that_contains_itself_is_refused():
    extra = {}
    extra["again"] = extra
    with pytest.raises(NetworkError, match="contains itself"):
        Config.of({"network": {}, "extra": extra})


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


def test_a_site_of_a_fed_job_soon_sends_a_result_again_that_got_no_answer(job, tmp_path):
    job.export_job(str(tmp_path))
    (site,) = tmp_path.glob("ring/app_b*/config/config_fed_client.json")
    assert json.loads(site.read_text())["submit_task_result_timeout"] < 60


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


def test_a_weight_may_be_set_later_from_a_matrix():
    network = Network([Node("bonn", [Neighbor("ulm")]), Node("ulm", [Neighbor("bonn")])])
    network.nodes[0].neighbors[0].weight = torch.tensor(0.25)
    network.nodes[1].neighbors[0].weight = np.float32(0.5)
    network.nodes[1].weight = np.float32(0.5)
    assert network.matrices() == [[[0.75, 0.25], [0.5, 0.5]]]
    assert json.loads(json.dumps(vars(network)))["nodes"][1]["weight"] == 0.5


def test_weights_of_float32_that_sum_to_one_leave_nothing_to_the_site():
    third = float(np.float32(1 / 3))
    network = Network([Node("a", [Neighbor(peer, third) for peer in "bcd"]), *map(Node, "bcd")])
    assert 3 * third > 1
    hood = network.schedules()["a"][0]
    assert hood.self_weight == 0
    assert sum(hood.in_weights.values()) == 1


@pytest.mark.parametrize("weight", [None, -0.1, 0.0, 1.1, math.nan, math.inf, "0.5", [0.5]])
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
        ([Node()], "the id of a node must be the name of a site, such as 'site-1', not None"),
        ([Node(1)], "the id of a node must be .*, not 1$"),
        ([Node(["a"])], "the id of a node must be .*, not a list"),
        ([Node("")], "the id of a node must be .*, not a str"),
        ([Node("bonn", [Neighbor(1, 0.5)])], "bonn lists 1, which is no node"),
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
    assert controller._start_timeout == seconds  # which it tells them
    assert controller.config.extra == extra
