"""What a FedJob writes of flaremesh's components."""

import json

import pytest
from nvflare.job_config.api import FedJob

from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.executors import ConsensusExecutor
from flaremesh.p2p.extra import ExtraError
from flaremesh.p2p.fed_job import ArgumentError
from flaremesh.p2p.gate import order
from flaremesh.p2p.gate.exported import extra_of
from flaremesh.p2p.types import Config, Neighbor, Network, Node

NETWORK = Network([Node("bonn", [Neighbor("ulm", 0.5)]), Node("ulm", [Neighbor("bonn", 0.5)])])


class Ported(ConsensusExecutor):
    def __init__(self, network=None, nodes=None):
        super().__init__(1.0)
        self.network, self.nodes = network, nodes


def job(*executors):
    made = FedJob(name="pair")
    made.to_server(DistOptController(Config(NETWORK, {"iterations": 3})))
    for site, executor in zip(("bonn", "ulm"), executors, strict=True):
        made.to(executor, site)
    return made


@pytest.mark.parametrize("when", ["before", "after", "before, with flaremesh"])
def test_packages_of_an_app_may_be_set_at_any_time(tmp_path, when):
    made = FedJob(name="pair")
    packages = ["flaremesh"] if when.endswith("flaremesh") else ["numpy"]
    if when.startswith("before"):
        made.job.set_app_packages(packages)
    made.to_server(DistOptController(Config(NETWORK)))
    made.to(ConsensusExecutor(1.0), "bonn")
    if when == "after":
        made.job.set_app_packages(packages)
    made.export_job(str(tmp_path))
    assert not list(tmp_path.rglob("custom"))
    assert set(made.job.app_packages) == {*packages, "flaremesh"}


def test_a_network_given_to_an_executor_is_written_as_an_object(tmp_path):
    job(Ported(network=NETWORK), Ported()).export_job(str(tmp_path))
    (written,) = [
        executor["executor"]["args"]["network"]
        for config in tmp_path.rglob("config_fed_client.json")
        for executor in json.loads(config.read_text())["executors"]
        if "network" in executor["executor"]["args"]
    ]
    assert written["path"].startswith("flaremesh.p2p.types")
    assert Network(**written["args"]) == NETWORK


def test_an_argument_that_json_cannot_carry_is_named_when_the_component_is_added():
    with pytest.raises(ArgumentError, match="Ported: the job cannot carry the argument nodes"):
        job(Ported(nodes=NETWORK.nodes), Ported())


def test_the_second_argument_of_a_controller_is_the_stock_packages(tmp_path):
    assert DistOptController(Config(NETWORK), 0.5)._task_check_period == 0.5
    with pytest.raises(TypeError):
        DistOptController(Config(NETWORK), 0.5, 60.0)


def test_an_exported_job_has_an_order_with_the_sites_and_edges_of_its_network(tmp_path):
    made = job(ConsensusExecutor(1.0), ConsensusExecutor(2.0))
    made.export_job(str(tmp_path))
    orders = {app: order.read(tmp_path / "pair" / app) for app in ("app_server", "app_bonn", "app_ulm")}
    assert len({written.run for written in orders.values()}) == 1
    for app, written in orders.items():
        assert written.sites == ("bonn", "ulm")
        assert written.edges == {"bonn": ("ulm",), "ulm": ("bonn",)}
        assert written.targets == (app.removeprefix("app_"),)
        assert written.files == order.digests(tmp_path / "pair" / app)


def exported_with(tmp_path, **extra):
    """The order and the app of an exported job whose Config says so."""
    made = FedJob(name="pair")
    made.to_server(DistOptController(Config(NETWORK, {"iterations": 3, **extra})))
    for site in ("bonn", "ulm"):
        made.to(ConsensusExecutor(1.0), site)
    made.export_job(str(tmp_path))
    return order.read(tmp_path / "pair" / "app_bonn"), tmp_path / "pair" / "app_server"


@pytest.mark.parametrize(
    ("extra", "ordered"),
    [
        ({}, ("fail", None)),
        ({"on_loss": "wait", "patience": 30, "checkpoint": {"every": 5}}, ("wait", None)),
        ({"on_loss": "continue", "straggler_timeout": 60.0}, ("continue", 2)),
        ({"on_loss": "continue", "quorum": 2}, ("continue", 2)),
        ({"patience": "a word of its author's"}, ("fail", None)),
    ],
)
def test_what_becomes_of_a_loss_is_in_the_order_that_is_signed(tmp_path, extra, ordered):
    written, app = exported_with(tmp_path, **extra)
    assert (written.on_loss, written.quorum) == ordered
    assert extra_of(app).items() >= extra.items()


@pytest.mark.parametrize(
    ("extra", "mistake"),
    [
        ({"on_loss": "hope"}, r'extra\["on_loss"\] must be one of fail, wait, continue'),
        ({"on_loss": "wait", "patience": 0}, r'extra\["patience"\] must be a number above 0'),
        ({"on_loss": "wait", "checkpoint": {"every": "often"}}, r'extra\["checkpoint"\] must be'),
        ({"on_loss": "continue", "straggler_timeout": -1}, r'extra\["straggler_timeout"\] must be'),
        ({"on_loss": "continue", "quorum": 1}, r'extra\["quorum"\] must be a whole number of at least 2'),
        ({"on_loss": "continue", "quorum": 3}, r'extra\["quorum"\] must be at most 2'),
    ],
)
def test_what_is_no_such_option_is_refused_when_the_job_is_exported(tmp_path, extra, mistake):
    with pytest.raises(ExtraError, match=mistake):
        exported_with(tmp_path, **extra)


def test_each_export_is_a_run_of_its_own(tmp_path):
    made = job(ConsensusExecutor(1.0), ConsensusExecutor(2.0))
    runs = set()
    for _ in range(2):
        made.export_job(str(tmp_path))
        runs.add(order.read(tmp_path / "pair/app_bonn").run)
    assert len(runs) == 2
