"""Topologies and what provisioning makes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flaremesh.provision.kits import provision
from flaremesh.topology.schema import Topology

MakeTopology = Callable[..., Topology]


@pytest.fixture(scope="session")
def make_topology() -> MakeTopology:
    """A ring of ``sites`` with one admin of each role; further fields of the file as keywords."""

    def make(*sites: str, **fields: Any) -> Topology:
        document: dict[str, Any] = {
            "apiVersion": "flaremesh/v1",
            "name": "ring",
            "server": {"host": "mesh.example.org", "org": "consortium"},
            "admins": [
                {"email": f"{role.replace('_', '-')}@example.org", "org": "consortium", "role": role}
                for role in ("project_admin", "org_admin", "lead", "member")
            ],
            "sites": [{"name": site, "org": "hospitals"} for site in sites or ("bonn", "heidelberg", "ulm")],
            "graph": {"kind": "ring"},
            "weights": "metropolis",
            "run": {
                "algorithm": "consensus",
                "iterations": 10,
                "stepsize": 0.1,
                "problem": {"path": "flaremesh.problems.consensus.Consensus"},
            },
        }
        return Topology.model_validate(document | fields)

    return make


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory, make_topology: MakeTopology) -> Path:
    """A mesh provisioned once, for tests that only read it."""
    out = tmp_path_factory.mktemp("mesh")
    provision(make_topology(), out)
    return out


@pytest.fixture
def file(tmp_path: Path, make_topology: MakeTopology) -> Path:
    """A topology file."""
    path = tmp_path / "ring.yaml"
    run = {
        "algorithm": "consensus",
        "iterations": 1,
        "problem": {"path": "flaremesh.problems.consensus.Consensus"},
    }
    document = make_topology(run=run).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    path.write_text(yaml.safe_dump(document | {"apiVersion": "flaremesh/v1"}))
    return path
