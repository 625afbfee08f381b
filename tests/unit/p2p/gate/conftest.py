"""A site with its kit, and apps that are signed as NVFlare's client signs them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
from nvflare.lighter.utils import load_private_key_file, sign_folders

from flaremesh.p2p.charter import CHARTER, CHARTER_RECORD, Charter, Code, Peer
from flaremesh.p2p.gate.deployer import SiteDoor
from flaremesh.p2p.nvflare.signers import Signer
from flaremesh.provision.certificates import CERTIFICATES
from flaremesh.provision.job import write_job
from flaremesh.provision.kits import provision
from flaremesh.signatures import sealed
from flaremesh.topology.links import LinkKind
from flaremesh.topology.schema import Topology

JOB = "6f1f6a0e-3f3a-4b39-9d0c-0d5a3f2f4a10"
NO_CODE = Code()
BOTH = (LinkKind.DIRECT, LinkKind.RELAY)
CHARTER_OF_BONN = Charter(
    mesh="pair", participant="bonn", peers={"ulm": Peer(sends=True, receives=True, carriers=BOTH)}
)


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


class Site:
    """A site's workspace with its kit.

    Args:
        provisioned: the mesh's folder.
        workspace: of the site, a new one.
    """

    def __init__(self, provisioned: Path, workspace: Path):
        self.workspace = workspace
        self._root = json.loads((provisioned / CERTIFICATES).read_text())["root_pri_key"]
        shutil.copytree(provisioned / "kits/bonn", workspace)
        self.door = SiteDoor()
        self.allow()

    def allow(self, code: Code = NO_CODE, **fields: Any) -> None:
        charter = replace(CHARTER_OF_BONN, code=code, **fields)
        document = sealed(CHARTER_RECORD.json(charter), self._root.encode())
        (self.workspace / "startup" / CHARTER).write_text(document)

    def admit(self, archive: bytes, job: str = JOB) -> Signer | str:
        return self.door.admit(self.workspace, job, archive)


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
