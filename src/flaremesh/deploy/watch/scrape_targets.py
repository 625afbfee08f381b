"""What a Prometheus on this machine scrapes: the participants where they are now, with the chart's rules."""

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from flaremesh import atomic
from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.provision.monitoring_values import MonitoringValues
from flaremesh.provision.releases import METRIC_RELABELING, RULES

_INTERVAL = MonitoringValues().prometheus.interval


class ScrapeTargets:
    """The file that tells Prometheus where the participants are.

    Args:
        mesh: the mesh's name.
        target: where it runs; this machine reaches its participants.
        file: the file to write.
    """

    def __init__(self, mesh: str, target: Target, file: Path):
        self.file = file
        self._mesh = mesh
        self._target = target
        self._addresses: dict[str, str] = {}

    def refresh(self) -> None:
        """Write where the participants are now; one that is gone stays listed, so that its absence shows.

        Raises:
            DeployError: there has been no participant yet.
        """
        found = {p.name: urlsplit(p.metrics).netloc for p in self._target.participants() if p.metrics}
        gone = {
            name: address
            for name, address in self._addresses.items()
            if name not in found and address not in found.values()
        }
        self._addresses = found | gone
        if not self._addresses:
            raise nothing_runs(self._mesh)
        groups = [
            {"targets": [address], "labels": {"mesh": self._mesh, "site": name}}
            for name, address in self._addresses.items()
        ]
        atomic.write(self.file, json.dumps(groups, indent=2) + "\n")


def configure(folder: Path, targets: Path) -> None:
    """Write ``prometheus.yml``, and the rules beside it.

    Args:
        folder: the folder to write to.
        targets: the file of ScrapeTargets, in that folder.
    """
    shutil.copyfile(RULES, folder / RULES.name)
    document = {
        "global": {"scrape_interval": _INTERVAL, "evaluation_interval": _INTERVAL},
        "rule_files": [RULES.name],
        "scrape_configs": [
            {
                "job_name": "flaremesh",
                "file_sd_configs": [{"files": [targets.name]}],
                "metric_relabel_configs": yaml.safe_load(METRIC_RELABELING.read_text()),
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document, sort_keys=False))


def nothing_runs(mesh: str) -> DeployError:
    """The error about a mesh that is down."""
    return DeployError(f"nothing of {mesh} runs: `flaremesh up` starts it")
