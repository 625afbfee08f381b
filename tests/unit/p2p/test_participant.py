"""What keeps a participant from starting is told before it starts."""

import json
import shutil
from pathlib import Path

import pytest
from cryptography import x509

from flaremesh.certificates import Kind
from flaremesh.issuing import key_pem, new_key
from flaremesh.p2p.participant import StartError, check, identity
from flaremesh.provision.kits import provision
from flaremesh.topology.load import load

RING = load(Path(__file__).parents[3] / "provision/ring3-consensus.yaml")
ADMIN = RING.admins[0].email


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    provision(RING, folder)
    return folder / "kits"


@pytest.fixture
def bonn(kits, tmp_path):
    return shutil.copytree(kits / "bonn", tmp_path / "bonn")


@pytest.mark.parametrize(
    ("name", "kind"), [("server", Kind.SERVER), ("bonn", Kind.SITE), (ADMIN, Kind.ADMIN)]
)
def test_a_kit_says_whose_it_is(kits, name, kind):
    check(kits / name, name, gpus=0)
    assert (identity(kits / name).name, identity(kits / name).kind) == (name, kind)


@pytest.mark.parametrize("file", ["charter.json", "runs.crt"])
def test_a_kit_of_an_earlier_version_is_told(bonn, file):
    (bonn / "startup" / file).unlink()
    with pytest.raises(StartError, match=rf"no {file}, and so is one of an earlier version.*provision"):
        identity(bonn)


def test_a_charter_that_somebody_changed_is_told(bonn):
    file = bonn / "startup/charter.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"content": document["content"].replace("relay", "direct")}))
    with pytest.raises(StartError, match="not what the root in the kit signed"):
        identity(bonn)


@pytest.mark.parametrize("file", ["charter.json", "runs.crt", "client.crt"])
def test_files_of_two_kits_of_one_mesh_are_told(kits, bonn, file):
    shutil.copy(kits / "aachen/startup" / file, bonn / "startup" / file)
    with pytest.raises(StartError, match="from two kits"):
        identity(bonn)


@pytest.mark.parametrize("file", ["rootCA.pem", "client.crt", "runs.crt"])
def test_files_of_two_meshes_are_told(bonn, tmp_path, file):
    provision(RING, tmp_path / "another")
    shutil.copy(tmp_path / "another/kits/bonn/startup" / file, bonn / "startup" / file)
    with pytest.raises(StartError, match="from two kits"):
        identity(bonn)


def test_a_site_is_no_server(kits, bonn):
    for suffix in ("crt", "key"):
        (bonn / f"startup/client.{suffix}").rename(bonn / f"startup/server.{suffix}")
    with pytest.raises(StartError, match=r"server\.crt is the certificate of bonn"):
        identity(bonn)


OWN_FILES = ("client.crt", "client.key", "runs.crt")  # beside the charter, which lists who is revoked


def test_a_revoked_kit_is_told_before_it_starts(tmp_path):
    provision(RING, tmp_path)
    kit = tmp_path / "kits/bonn"
    serial = x509.load_pem_x509_certificate((kit / "startup/client.crt").read_bytes()).serial_number
    old = {file.name: file.read_bytes() for file in (kit / "startup").iterdir() if file.name in OWN_FILES}
    certificates = RING.certificates.model_copy(update={"revoked": (str(serial),)})
    provision(RING.model_copy(update={"certificates": certificates}), tmp_path)
    assert identity(kit).serial != str(serial)  # provisioning has issued another one
    for name, content in old.items():
        (kit / "startup" / name).write_bytes(content)
    with pytest.raises(StartError, match=rf"bonn with the serial number {serial} is revoked"):
        identity(kit)


def test_a_kit_without_its_key_asks_for_it(bonn):
    (bonn / "startup/client.key").unlink()
    with pytest.raises(StartError, match=r"client\.key is missing.*flaremesh request"):
        check(bonn, "bonn", gpus=0)


@pytest.mark.parametrize("key", [b"nothing", key_pem(new_key())])
def test_a_key_that_is_not_the_certificates_is_told(bonn, key):
    (bonn / "startup/client.key").write_bytes(key)
    with pytest.raises(StartError, match=r"client\.key"):
        check(bonn, "bonn", gpus=0)
