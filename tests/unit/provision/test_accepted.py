"""What a topology file may say, NVFlare, certificates and Helm hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flaremesh.provision.kits import provision
from flaremesh.provision.plan import plan
from flaremesh.provision.state import previous
from flaremesh.topology.load import load

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LABELS = st.text(f"{LETTERS}0123456789-", max_size=61).map(lambda text: f"a{text}z")
SITES = st.one_of(
    st.text(f"{LETTERS}0123456789-", max_size=50).map(lambda text: f"x{text}z"),  # as Kubernetes has them
    st.sampled_from(
        ["y", "no", "null", "on", "helm", "kits", "state", "startup", "local", "admin", "root", "x-y"]
    ),
)
ORGS = st.text(f"{LETTERS.upper()}0123456789_", min_size=1, max_size=64)
HOSTS = st.one_of(
    st.lists(LABELS, min_size=1, max_size=4).map(lambda labels: ".".join(labels)[:253].rstrip(".-")),
    st.ip_addresses(v=4).map(str),
    st.just("x" * 63 + ".Y"),
)
EMAILS = st.text(f"{LETTERS}._%+-", min_size=1, max_size=53).map(lambda text: f"{text}@Xample.org")
IMAGES = st.sampled_from(
    ["localhost:5000/x:0934812", "x.y/z:1e3", f"a:T@sha256:{'0' * 64}", "flaremesh:null"]
)
TOPOLOGIES = st.fixed_dictionaries(
    {
        "name": LABELS,
        "server": st.fixed_dictionaries(
            {"host": HOSTS, "org": ORGS, "port": st.integers(1, 65535), "names": st.lists(HOSTS, max_size=2)}
        ),
        "admins": st.lists(
            st.fixed_dictionaries({"email": EMAILS, "org": ORGS}),
            min_size=1,
            max_size=2,
            unique_by=lambda admin: admin["email"].casefold(),
        ),
        "sites": st.lists(
            st.fixed_dictionaries({"name": SITES, "org": ORGS, "gpus": st.integers(0, 1024)}),
            min_size=2,
            max_size=3,
            unique_by=lambda site: site["name"],
        ),
        "certificates": st.fixed_dictionaries({"root_days": st.integers(1, 36500)}),
        "deploy": st.fixed_dictionaries({"image": IMAGES, "namespace": LABELS}),
    }
)
LONGEST: dict[str, Any] = {
    "name": "m" * 63,
    "server": {"host": ".".join(["h" * 63] * 3) + ".example.org", "org": "O" * 64, "names": ["10.0.0.1"]},
    "admins": [{"email": f"{'a' * 54}@bcdef.org", "org": "O" * 64, "role": "project_admin"}],
    "sites": [{"name": "s" * 52, "org": "O" * 64, "gpus": 1024}, {"name": "t" * 52, "org": "0"}],
    "certificates": {"root_days": 36500},
    "deploy": {"image": f"registry:5000/{'x' * 60}:{'T' * 128}", "storage": "s" * 253},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("accepted")


@settings(max_examples=5, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@example(document=LONGEST)
@given(document=TOPOLOGIES)
def test_what_a_file_may_say_can_be_provisioned(folder: Path, document: dict[str, Any]) -> None:
    run = {
        "algorithm": "consensus",
        "iterations": 1,
        "problem": {"path": "flaremesh.problems.consensus.Consensus"},
    }
    path = folder / "mesh.yaml"
    path.write_text(
        json.dumps({"apiVersion": "flaremesh/v1", "graph": {"kind": "path"}, "run": run} | document)
    )
    topology = load(path)
    plan(topology)
    out = folder / str(len(list(folder.iterdir())))

    kits = provision(topology, out).kits

    assert len(kits) == 1 + len(topology.sites) + len(topology.admins)
    assert previous(out) == topology
