"""A site with its kit, and apps that are signed as NVFlare's client signs them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from gate_site import Site
from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
from nvflare.lighter.utils import load_private_key_file, sign_folders

from flaremesh.provision.job import write_job
from flaremesh.provision.kits import provision
from flaremesh.topology.schema import Topology


@pytest.fixture(scope="session")
def topology() -> Topology:
    return Topology.model_validate(
        {
            "apiVersion": "flaremesh/v1",
            "name": "pair",
            "server": {"host": "mesh.example.org", "org": "consortium"},
            "admins": [{"email": "lead@example.org", "org": "institute", "role": "lead"}],
            "sites": [{"name": site, "org": "hospitals"} for site in ("bonn", "ulm")],
            "graph": {"kind": "complete"},
            "run": {
                "algorithm": "consensus",
                "iterations": 10,
                "problem": {"path": "flaremesh.problems.consensus.Consensus"},
            },
        }
    )


@pytest.fixture(scope="session")
def provisioned(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pair")
    provision(topology, out)
    return out


@pytest.fixture
def site(provisioned: Path, tmp_path: Path) -> Site:
    return Site(provisioned, tmp_path / "bonn")


Submit = Callable[..., bytes]


@pytest.fixture
def app(topology: Topology, tmp_path: Path) -> Path:
    """The app of the sites in a job of the topology's run, with its order."""
    write_job(topology, tmp_path / "job", name="first")
    return tmp_path / "job/app_sites"


@pytest.fixture
def submit(provisioned: Path) -> Submit:
    """Signs an app as one of the mesh and packs it, as the server sends it to the sites."""

    def signed(app: Path, signer: str = "lead@example.org") -> bytes:
        startup = provisioned / "kits" / signer / "startup"
        owner = "server" if signer == "server" else "client"
        key = load_private_key_file(str(startup / f"{owner}.key"))
        sign_folders(str(app), key, str(startup / f"{owner}.crt"))
        return bytes(zip_directory_to_bytes(str(app), ""))

    return signed
