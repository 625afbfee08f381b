"""What a FedJob writes of flaremesh's components."""

import json

import pytest
from nvflare.job_config.api import FedJob

from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.executors import ConsensusExecutor
from flaremesh.p2p.fed_job import ArgumentError
from flaremesh.p2p.gate import order
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


def test_each_export_is_a_run_of_its_own(tmp_path):
    made = job(ConsensusExecutor(1.0), ConsensusExecutor(2.0))
    runs = set()
    for _ in range(2):
        made.export_job(str(tmp_path))
        runs.add(order.read(tmp_path / "pair/app_bonn").run)
    assert len(runs) == 2
