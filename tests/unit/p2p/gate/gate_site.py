"""A site with its kit, and with a charter of which a test may change what it likes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from nvflare.apis.workspace import Workspace

from flaremesh.certificates import Identity
from flaremesh.p2p.charter import CHARTER, CHARTER_RECORD, Charter, Code, Peer
from flaremesh.p2p.gate.deployer import SiteDoor
from flaremesh.provision.certificates import CERTIFICATES
from flaremesh.signatures import sealed
from flaremesh.topology.links import LinkKind

JOB = "6f1f6a0e-3f3a-4b39-9d0c-0d5a3f2f4a10"
NO_CODE = Code()
BOTH = (LinkKind.DIRECT, LinkKind.RELAY)
CHARTER_OF_BONN = Charter(
    mesh="pair", participant="bonn", peers={"ulm": Peer(sends=True, receives=True, carriers=BOTH)}
)


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
        self.nvflare = Workspace(str(workspace), "bonn")
        self.allow()

    def allow(self, code: Code = NO_CODE, **fields: Any) -> None:
        charter = replace(CHARTER_OF_BONN, code=code, **fields)
        document = sealed(CHARTER_RECORD.json(charter), self._root.encode())
        (self.workspace / "startup" / CHARTER).write_text(document)

    def admit(self, archive: bytes) -> Identity | str:
        return SiteDoor().admit(self.workspace, JOB, archive)
