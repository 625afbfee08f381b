"""What `flaremesh monitor` writes for Prometheus and for Grafana."""

import json
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from flaremesh.deploy.targets import TargetKind
from flaremesh.deploy.targets.base import DeployError, Participant
from flaremesh.deploy.watch.monitor import Ports, monitor, provisioning
from flaremesh.deploy.watch.scrape_targets import ScrapeTargets, configure
from flaremesh.topology.load import load
from programs import program

RING = Path(__file__).parents[3] / "provision" / "ring3-consensus.yaml"


class Places:
    """A target that knows where its participants serve, and nothing else."""

    def __init__(self, **addresses: str | None):
        self.addresses = addresses

    def participants(self) -> list[Participant]:
        return [
            Participant(name, True, True, place="", metrics=address and f"http://{address}/metrics")
            for name, address in self.addresses.items()
        ]


def scraped(targets: ScrapeTargets) -> dict[str, str]:
    targets.refresh()
    groups = json.loads(targets.file.read_text())
    assert all(group["labels"]["mesh"] == "ring" for group in groups)
    return {group["labels"]["site"]: address for group in groups for address in group["targets"]}


def test_a_participant_that_comes_back_elsewhere_is_followed(tmp_path):
    places = Places(server="127.0.0.1:1", bonn="127.0.0.1:2")
    targets = ScrapeTargets("ring", places, tmp_path / "targets.json")
    assert scraped(targets) == {"server": "127.0.0.1:1", "bonn": "127.0.0.1:2"}
    places.addresses["bonn"] = "127.0.0.1:3"
    assert scraped(targets)["bonn"] == "127.0.0.1:3"


def test_a_participant_that_is_gone_stays_a_target_so_that_it_counts_as_down(tmp_path):
    places = Places(server="127.0.0.1:1", bonn="127.0.0.1:2")
    targets = ScrapeTargets("ring", places, tmp_path / "targets.json")
    scraped(targets)
    places.addresses["bonn"] = None
    assert scraped(targets)["bonn"] == "127.0.0.1:2"


def test_who_took_the_address_of_one_that_is_gone_is_not_scraped_for_it(tmp_path):
    places = Places(server="127.0.0.1:1", bonn="127.0.0.1:2", aachen=None)
    targets = ScrapeTargets("ring", places, tmp_path / "targets.json")
    scraped(targets)
    places.addresses |= {"bonn": None, "aachen": "127.0.0.1:2"}
    assert scraped(targets) == {"server": "127.0.0.1:1", "aachen": "127.0.0.1:2"}


def test_a_mesh_that_is_down_is_refused(tmp_path):
    with pytest.raises(DeployError, match="nothing of ring runs: `flaremesh up` starts it"):
        ScrapeTargets("ring", Places(server=None), tmp_path / "targets.json").refresh()


def test_prometheus_takes_the_configuration(tmp_path):
    targets = ScrapeTargets("ring", Places(server="127.0.0.1:1"), tmp_path / "targets.json")
    targets.refresh()
    configure(tmp_path, targets.file)
    command = [program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr
    assert "rules found" in check.stdout


def test_grafana_gets_its_data_source_and_all_dashboards():
    files = provisioning("http://127.0.0.1:9090")
    source = yaml.safe_load(files["/etc/grafana/provisioning/datasources/flaremesh.yaml"])
    assert source["datasources"][0]["url"] == "http://127.0.0.1:9090"
    provider = yaml.safe_load(files["/etc/grafana/provisioning/dashboards/flaremesh.yaml"])
    folder = provider["providers"][0]["options"]["path"]
    dashboards = [json.loads(content) for path, content in files.items() if path.startswith(f"{folder}/")]
    assert {"flaremesh-overview", "flaremesh-run"} <= {dashboard["uid"] for dashboard in dashboards}


def test_a_port_that_is_taken_is_named_with_the_option_that_chooses_another(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = pytest.raises(DeployError, match=rf"port {port} cannot be used: .* --prometheus-port")
        with refused, monitor(TargetKind.LOCAL, load(RING), tmp_path, Ports(port, 0)):
            pass
