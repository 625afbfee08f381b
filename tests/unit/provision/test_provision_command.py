"""`flaremesh provision`, as a user calls it."""

import json
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from typer.testing import CliRunner

from flaremesh.cli.main import app
from flaremesh.p2p.charter import read


def command(file: Path, *options: str) -> list[str]:
    return ["provision", str(file), "--output", str(file.parent / "mesh"), *options]


def drop_site(file: Path, name: str) -> None:
    document = yaml.safe_load(file.read_text())
    document["sites"] = [site for site in document["sites"] if site["name"] != name]
    file.write_text(yaml.safe_dump(document))


def test_the_command_says_what_it_made_how_long_it_lasts_and_what_comes_next(file: Path) -> None:
    first = CliRunner().invoke(app, command(file))
    assert first.exit_code == 0
    assert "bonn, heidelberg" in first.stdout
    assert "root 3649" in first.stdout
    assert f"Next: flaremesh up {file} --output" in first.stdout
    assert "nothing changed" in CliRunner().invoke(app, command(file)).stdout


def test_the_command_says_whose_root_it_goes_on_with(file: Path) -> None:
    assert "Root:" not in CliRunner().invoke(app, command(file)).stdout
    root = x509.load_pem_x509_certificate((file.parent / "mesh/kits/bonn/startup/rootCA.pem").read_bytes())
    again = CliRunner().invoke(app, command(file)).stdout
    assert f"SHA-256 {root.fingerprint(SHA256()).hex()}, from {file.parent / 'mesh/state'}" in again


def test_a_removed_site_needs_the_option_and_the_message_says_so(file: Path) -> None:
    CliRunner().invoke(app, command(file))
    drop_site(file, "ulm")
    refused = CliRunner().invoke(app, command(file))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "ulm" in refused.stderr
    assert "--remove" in refused.stderr
    assert "removed  ulm" in CliRunner().invoke(app, command(file, "--remove")).stdout


def test_the_command_says_the_same_as_json(file: Path) -> None:
    document = json.loads(CliRunner().invoke(app, command(file, "--json")).stdout)
    assert Path(document["kits"]["bonn"]).is_dir()
    assert sorted(document["kits"]) == sorted(document["added"])
    assert document["certificates"]["bonn"]["days_left"] == 359
    assert document["removed"] == []


def test_an_unsound_run_is_refused_before_anything_is_made(file: Path) -> None:
    document = yaml.safe_load(file.read_text())
    document["run"]["algorithm"] = "consensu"
    file.write_text(yaml.safe_dump(document))
    refused = CliRunner().invoke(app, command(file))
    assert refused.exit_code == 2
    assert not (file.parent / "mesh").exists()


def serial(file: Path, name: str) -> str:
    (path,) = (file.parent / "mesh/kits" / name / "startup").glob("client.crt")
    return str(x509.load_pem_x509_certificate(path.read_bytes()).serial_number)


def test_renewing_says_how_to_close_the_old_certificate_for_good(file: Path) -> None:
    CliRunner().invoke(app, command(file))
    old = serial(file, "ulm")
    said = CliRunner().invoke(app, command(file, "--renew", "ulm")).stdout
    assert "changed  ulm (new certificate: it was asked for); deploy it again" in said
    assert f"the certificate {old} of ulm" in said
    assert f"certificates: {{revoked: ['{old}']}}" in said
    document = yaml.safe_load(file.read_text()) | {"certificates": {"revoked": [old]}}
    file.write_text(yaml.safe_dump(document))
    assert "changed  server" in CliRunner().invoke(app, command(file)).stdout
    assert old in read(file.parent / "mesh/kits/server/startup").revoked


def test_the_serial_numbers_are_in_the_json(file: Path) -> None:
    CliRunner().invoke(app, command(file))
    old = serial(file, "ulm")
    document = json.loads(CliRunner().invoke(app, command(file, "--renew", "ulm", "--json")).stdout)
    assert document["retired"] == {"ulm": old}
    assert document["certificates"]["ulm"]["serial"] == serial(file, "ulm") != old


def test_nobody_can_be_renewed_who_is_not_in_the_file(file: Path) -> None:
    refused = CliRunner().invoke(app, command(file, "--renew", "worms"))
    assert refused.exit_code == 1
    assert "not in the topology file: worms" in refused.stderr
