"""What `flaremesh bundle --sign` signs is verified by minisign itself, and as its format is published."""

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from flaremesh.deploy.minisign import SecretKey, SigningError, signature_of
from programs import program

SEED, NUMBER = bytes(range(32)), bytes(range(8))
SECRET = SEED + Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()


def no_password() -> str:
    raise AssertionError("a key without a password asks for none")


def key_file(folder: Path, **changed: bytes) -> Path:
    """A secret key without a password, written as the format says."""
    parts = {"algorithm": b"Ed", "derivation": bytes(2), "check": b"B2", "salt_and_limits": bytes(48)}
    content = b"".join((parts | {"key": NUMBER + SECRET + bytes(32)} | changed).values())
    file = folder / "mine.key"
    file.write_text(f"untrusted comment: secret key\n{base64.b64encode(content).decode()}\n")
    return file


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    file = tmp_path / "bonn.tar"
    file.write_bytes(b"kit" * 100_000)
    return file


@pytest.fixture
def minisign() -> str:
    return program("minisign")


def test_a_signature_is_what_the_format_says(archive: Path, tmp_path: Path) -> None:
    key = SecretKey(key_file(tmp_path), no_password)
    _, signed, trusted, over_both = key.sign(archive).read_text().splitlines()

    content = base64.b64decode(signed)
    public = base64.b64decode(key.public)
    assert (content[:2], content[2:10], public[:10]) == (b"ED", NUMBER, b"Ed" + NUMBER)
    verifier = Ed25519PublicKey.from_public_bytes(public[10:])
    verifier.verify(content[10:], hashlib.blake2b(archive.read_bytes()).digest())
    comment = trusted.removeprefix("trusted comment: ")
    assert comment.endswith("\tfile:bonn.tar\thashed")
    verifier.verify(base64.b64decode(over_both), content[10:] + comment.encode())
    with pytest.raises(InvalidSignature):
        verifier.verify(content[10:], hashlib.blake2b(archive.read_bytes() + b"!").digest())


@pytest.mark.parametrize("password", ["", "open sesame ß"])
def test_minisign_verifies_what_a_key_of_its_own_signed(
    archive: Path, tmp_path: Path, minisign: str, password: str
) -> None:
    make = [
        minisign,
        "-G",
        "-p",
        tmp_path / "mine.pub",
        "-s",
        tmp_path / "mine.key",
        *(["-W"] * (not password)),
    ]
    subprocess.run(make, check=True, input=f"{password}\n{password}\n", text=True, capture_output=True)
    key = SecretKey(tmp_path / "mine.key", lambda: password)
    key.sign(archive)
    verify = [minisign, "-Vm", archive]

    subprocess.run([*verify, "-p", tmp_path / "mine.pub"], check=True, capture_output=True)
    subprocess.run([*verify, "-P", key.public], check=True, capture_output=True)
    archive.write_bytes(archive.read_bytes() + b"!")
    forged = subprocess.run([*verify, "-P", key.public], check=False, capture_output=True, text=True)
    assert forged.returncode != 0
    assert "Signature verification failed" in forged.stderr


def test_a_wrong_password_is_said(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match=r"the password is wrong, or .*mine\.key is damaged"):
        SecretKey(key_file(tmp_path, derivation=b"Sc"), lambda: "wrong")


@pytest.mark.parametrize(
    "changed", [{"algorithm": b"RS"}, {"derivation": b"Xx"}, {"key": b"short"}, {"key": bytes(104)}]
)
def test_what_is_no_key_is_refused_in_a_sentence(tmp_path: Path, changed: dict[str, bytes]) -> None:
    with pytest.raises(SigningError, match=r"minisign -G|is damaged"):
        SecretKey(key_file(tmp_path, **changed), no_password)


@pytest.mark.parametrize("content", [b"", b"one line", b"\n\xff\xfe\n", b"comment\nno base64!\n"])
def test_so_is_any_other_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.key").write_bytes(content)
    with pytest.raises(SigningError, match="is no secret key of minisign"):
        SecretKey(tmp_path / "mine.key", no_password)


def test_the_signature_lies_beside_the_file(archive: Path) -> None:
    assert signature_of(archive).name == "bonn.tar.minisig"
