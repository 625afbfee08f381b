"""Participants that make their keys themselves: no private key travels, and none is kept for them."""

import re
import shutil
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from flaremesh.cli.main import app
from flaremesh.issuing import read_key
from flaremesh.p2p.participant import check
from flaremesh.provision.kits import ProvisionError, provision
from flaremesh.provision.requests import RequestError, new_request, read_request


def flaremesh(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def private_key_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]


@pytest.mark.parametrize("provisioned_before", [True, False])
def test_a_site_makes_its_key_and_gets_a_kit_without_one(file: Path, provisioned_before: bool) -> None:
    mesh, there = file.parent / "mesh", file.parent / "at-bonn"
    if provisioned_before:
        flaremesh("provision", file, "--output", mesh)
    asked = flaremesh("request", "bonn", "--output", there)
    key = there / "bonn.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600

    said = flaremesh("sign", file, there / "bonn.csr", "--output", mesh)
    assert "without a private key" in said
    (fingerprint,) = re.findall(r"Fingerprint.*: ([0-9a-f ]{71})$", asked, re.MULTILINE)
    assert fingerprint in said
    assert ("retired" in said) == provisioned_before
    kit = mesh / "kits/bonn"
    assert not private_key_files(kit)
    secret = "".join(key.read_text().split()[4:6])
    assert all(secret not in path.read_text(errors="replace") for path in mesh.rglob("*") if path.is_file())

    installed = shutil.copytree(kit, there / "bonn")
    shutil.copy(key, installed / "startup/client.key")
    check(installed, "bonn", gpus=0)


def test_provisioning_goes_on_without_the_key(tmp_path: Path, make_topology) -> None:
    key, csr = new_request("bonn")
    provision(make_topology(), tmp_path, request=read_request(csr))
    again = provision(make_topology(), tmp_path)
    assert (again.changed, again.reissued) == ((), {})
    moved = make_topology(sites=[{"name": site, "org": "clinics"} for site in ("bonn", "heidelberg", "ulm")])
    assert "bonn" in provision(moved, tmp_path).reissued
    certificate = x509.load_pem_x509_certificate((tmp_path / "kits/bonn/startup/client.crt").read_bytes())
    assert certificate.public_key() == read_key(key).public_key()
    assert not private_key_files(tmp_path / "kits/bonn")


def test_the_same_request_twice_is_one_certificate(tmp_path: Path, make_topology) -> None:
    asked = read_request(new_request("bonn")[1])
    provision(make_topology(), tmp_path, request=asked)
    again = provision(make_topology(), tmp_path, request=asked)
    assert (again.changed, again.reissued) == ((), {})


def test_a_key_that_the_site_put_into_its_kit_stays_there(tmp_path: Path, make_topology) -> None:
    key, csr = new_request("bonn")
    provision(make_topology(), tmp_path, request=read_request(csr))
    file = tmp_path / "kits/bonn/startup/client.key"
    file.write_bytes(key)
    provision(make_topology(), tmp_path, request=read_request(csr))
    assert file.read_bytes() == key


def test_who_keeps_its_key_is_renewed_by_a_request(tmp_path: Path, make_topology) -> None:
    provision(make_topology(), tmp_path, request=read_request(new_request("bonn")[1]))
    with pytest.raises(ProvisionError, match=r"bonn made the key.*flaremesh request.*flaremesh sign"):
        provision(make_topology(), tmp_path, renew=["bonn"])


def test_who_is_not_in_the_file_gets_no_certificate(tmp_path: Path, make_topology) -> None:
    with pytest.raises(ProvisionError, match="not in the topology file: eve"):
        provision(make_topology(), tmp_path, request=read_request(new_request("eve")[1]))
    assert not (tmp_path / "kits").exists()


def request_of(key, *names: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    built = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
    return built.public_bytes(Encoding.PEM)


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=1024),
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_a_key_that_is_too_weak_or_of_another_kind_is_refused(key) -> None:
    with pytest.raises(RequestError, match="bonn: the key is not RSA of 2048"):
        read_request(request_of(key, "bonn"))


@pytest.mark.parametrize("names", [[], ["bonn", "ulm"], ["../bonn"], ["bonn\x1b[31m"]])
def test_a_request_names_one_participant(names: list[str]) -> None:
    with pytest.raises(RequestError, match="does not name one participant"):
        read_request(request_of(RSA, *names))


def test_a_request_for_a_key_that_its_sender_does_not_have_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(request_of(RSA, "bonn")).public_bytes(Encoding.DER))
    der[-1] ^= 1  # the signature's last byte
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(RequestError, match="bonn: who made the request does not have the key"):
        read_request(forged)


@pytest.mark.parametrize("text", [b"", b"\xff" * 100, b"-----BEGIN CERTIFICATE REQUEST-----\n", b"x" * 10**6])
def test_another_file_is_no_request(text: bytes) -> None:
    with pytest.raises(RequestError, match="no certificate request"):
        read_request(text)


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    flaremesh("request", "bonn", "--output", tmp_path)
    before = (tmp_path / "bonn.key").read_bytes()
    refused = CliRunner().invoke(app, ["request", "bonn", "--output", str(tmp_path)])
    assert refused.exit_code == 2
    assert "is there already" in refused.stderr
    assert (tmp_path / "bonn.key").read_bytes() == before


def test_a_name_that_is_a_path_is_refused(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["request", "../bonn", "--output", str(tmp_path)])
    assert refused.exit_code == 2
    assert "no participant can have this name" in refused.stderr
