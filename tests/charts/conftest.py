from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import Object, Rendered, merged, render

from flaremesh.provision.kits import provision
from flaremesh.topology.load import load

REPOSITORY = Path(__file__).parents[2]
CHARTS = ("flaremesh-server", "flaremesh-site")


class Installation:
    """What provisioning wrote for a topology, rendered per participant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.participants = sorted(path.name for path in (folder / "helm").iterdir())

    def files(self, participant: str) -> Path:
        return self.folder / "helm" / participant

    def values(self, participant: str) -> dict[str, Any]:
        folder = self.files(participant)
        first, then = (yaml.safe_load((folder / name).read_text()) for name in ("values.yaml", "kit.yaml"))
        return merged(first, then)

    def render(
        self, participant: str, namespace: str | None = None, further: Object | None = None
    ) -> Rendered:
        chart = next(self.files(participant).glob("flaremesh-*"))
        values = merged(self.values(participant), further or {})
        return render(chart, values, participant, namespace or f"digits-{participant}")


@pytest.fixture(scope="session")
def one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return _provisioned("kubernetes-digits-ring4", tmp_path_factory)


@pytest.fixture(scope="session")
def two_clusters(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return _provisioned("two-clusters", tmp_path_factory)


@pytest.fixture(params=CHARTS)
def chart(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def every_option(chart: str) -> dict[str, Any]:
    return every_option_of(chart)


@pytest.fixture
def site() -> dict[str, Any]:
    """The least values of a site."""
    return {
        "name": "bonn",
        "mesh": "ring",
        "kit": {"startup": {"client.key": "secret"}, "local": {"resources.json": "{}"}},
        "server": {"name": "server", "namespace": "ring-server", "firstPort": 8002, "lastPort": 8002},
    }


def every_option_of(chart: str) -> dict[str, Any]:
    name = chart.replace("flaremesh-", "every-option-")
    values: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text())
    return values


def _provisioned(topology: str, folders: pytest.TempPathFactory) -> Installation:
    folder = folders.mktemp(topology)
    provision(load(REPOSITORY / f"provision/{topology}.yaml"), folder)
    return Installation(folder)
