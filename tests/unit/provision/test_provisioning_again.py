"""What a further provisioning changes, and what it leaves alone."""

import re
import time
from pathlib import Path

import pytest
from cryptography import x509

from flaremesh.provision import certificates, kits
from flaremesh.provision.kits import ProvisionError, previous, provision

SERVER = {"host": "mesh.example.org", "org": "consortium"}


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything that could tell that a file was touched."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


def certificate(out: Path, name: str) -> x509.Certificate:
    (path,) = (out / "kits" / name / "startup").glob(f"{'server' if name == 'server' else 'client'}.crt")
    return x509.load_pem_x509_certificate(path.read_bytes())


def private_keys(folder: Path) -> set[str]:
    """The private keys in all files of a folder, however they are indented."""
    pattern = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", re.DOTALL)
    texts = (path.read_text().replace("\\n", "\n") for path in folder.rglob("*") if path.is_file())
    return {"".join(key.split()) for text in texts for key in pattern.findall(text)}


def touched(before: dict[str, object], after: dict[str, object]) -> set[str]:
    """The participants whose kit differs."""
    return {
        Path(name).parts[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    }


def test_a_second_run_touches_nothing(tmp_path: Path, make_topology) -> None:
    first = provision(make_topology(), tmp_path)
    before = snapshot(tmp_path)
    second = provision(make_topology(), tmp_path)
    assert snapshot(tmp_path) == before
    assert set(first.added) == set(first.kits)
    assert (second.added, second.changed, second.removed, second.reissued) == ((), (), (), {})


def test_a_new_site_leaves_every_other_kit_alone(tmp_path: Path, make_topology) -> None:
    provision(make_topology("bonn", "ulm"), tmp_path)
    before = snapshot(tmp_path / "kits")
    result = provision(make_topology("bonn", "heidelberg", "ulm"), tmp_path)
    assert touched(before, snapshot(tmp_path / "kits")) == {"heidelberg"}
    assert (result.added, result.changed) == (("heidelberg",), ())


def test_a_site_is_not_removed_unless_asked(tmp_path: Path, make_topology) -> None:
    provision(make_topology("bonn", "heidelberg", "ulm"), tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(ProvisionError, match=r"heidelberg, ulm.*--remove"):
        provision(make_topology("bonn", "worms"), tmp_path)
    assert snapshot(tmp_path) == before


def test_a_removed_site_leaves_neither_kit_nor_private_key(tmp_path: Path, make_topology) -> None:
    provision(make_topology("bonn", "heidelberg", "ulm"), tmp_path)
    before = snapshot(tmp_path / "kits")
    result = provision(make_topology("bonn", "ulm"), tmp_path, remove=True)
    assert result.removed == ("heidelberg",)
    assert touched(before, snapshot(tmp_path / "kits")) == {"heidelberg"}
    assert not (tmp_path / "kits/heidelberg").exists()
    assert all(b"heidelberg" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("deploy_again", [{"deploy": {}}, {}])
def test_a_removed_site_leaves_no_private_key_in_a_release_either(
    tmp_path: Path, make_topology, deploy_again: dict
) -> None:
    provision(make_topology("bonn", "heidelberg", "ulm", deploy={}), tmp_path)
    keys = private_keys(tmp_path / "helm/heidelberg")
    assert keys
    provision(make_topology("bonn", "ulm", **deploy_again), tmp_path, remove=True)
    assert private_keys(tmp_path).isdisjoint(keys)


def test_releases_that_were_replaced_are_gone(tmp_path: Path, make_topology) -> None:
    provision(make_topology(deploy={}), tmp_path)
    result = provision(make_topology(deploy={"values": {"storage": {"size": "50Gi"}}}), tmp_path)
    assert {path.name for path in (tmp_path / "kits").iterdir()} == set(result.kits)
    assert {path.name for path in tmp_path.iterdir()} == {"firewall.md", "helm", "kits", "state"}


def test_releases_that_an_earlier_version_left_among_the_kits_are_deleted(
    tmp_path: Path, make_topology
) -> None:
    provision(make_topology(deploy={}), tmp_path)
    (tmp_path / "helm").rename(tmp_path / "kits/helm")
    provision(make_topology(), tmp_path)
    assert not (tmp_path / "kits/helm").exists()


def test_a_site_may_have_the_name_of_the_folder_of_releases(tmp_path: Path, make_topology) -> None:
    provision(make_topology("bonn", "helm", "ulm", deploy={}), tmp_path)
    before = snapshot(tmp_path / "kits")
    larger = {"values": {"storage": {"size": "50Gi"}}}
    assert provision(make_topology("bonn", "helm", "ulm", deploy=larger), tmp_path).changed == ()
    assert snapshot(tmp_path / "kits") == before


def test_a_site_may_have_the_name_of_the_mesh(tmp_path: Path, make_topology) -> None:
    provision(make_topology("bonn", "ulm", "ring"), tmp_path)
    assert provision(make_topology("bonn", "ulm"), tmp_path, remove=True).removed == ("ring",)


def test_a_site_that_comes_back_gets_a_new_key(tmp_path: Path, make_topology) -> None:
    provision(make_topology("bonn", "heidelberg", "ulm"), tmp_path)
    before = certificate(tmp_path, "ulm").public_key()
    provision(make_topology("bonn", "heidelberg"), tmp_path, remove=True)
    provision(make_topology("bonn", "heidelberg", "ulm"), tmp_path)
    assert certificate(tmp_path, "ulm").public_key() != before


def test_a_further_name_of_the_server_is_a_new_certificate_of_the_server_and_nothing_else(
    tmp_path: Path, make_topology
) -> None:
    provision(make_topology(server=SERVER), tmp_path)
    before = snapshot(tmp_path / "kits")
    result = provision(make_topology(server=SERVER | {"names": ["localhost", "10.0.0.7"]}), tmp_path)
    assert touched(before, snapshot(tmp_path / "kits")) == {"server"}
    assert result.reissued == {"server": "host names changed"}
    names = (
        certificate(tmp_path, "server").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    assert names.get_values_for_type(x509.DNSName) == ["mesh.example.org", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]


def test_another_host_of_the_server_changes_what_sites_dial_but_not_who_they_are(
    tmp_path: Path, make_topology
) -> None:
    provision(make_topology(server=SERVER), tmp_path)
    before = certificate(tmp_path, "bonn")
    result = provision(make_topology(server=SERVER | {"host": "elsewhere.example.org"}), tmp_path)
    assert set(result.changed) == set(result.kits)
    assert result.reissued.keys() == {"server"}
    assert certificate(tmp_path, "bonn") == before


def test_another_role_is_a_new_certificate_of_that_admin(tmp_path: Path, make_topology) -> None:
    admin = {"email": "ada@example.org", "org": "consortium", "role": "member"}
    provision(make_topology(admins=[admin]), tmp_path)
    result = provision(make_topology(admins=[admin | {"role": "lead"}]), tmp_path)
    assert result.reissued == {"ada@example.org": "organisation or role changed"}
    assert result.changed == ("ada@example.org",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "other"}, "holds the mesh ring, and the topology file names it other"),
        ({"certificates": {"root_days": 100}}, "was made for 3650 days, and the topology file asks for 100"),
    ],
)
def test_what_would_need_another_root_certificate_is_refused(
    tmp_path: Path, make_topology, change, reason: str
) -> None:
    provision(make_topology(), tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(ProvisionError, match=reason):
        provision(make_topology(**change), tmp_path)
    assert snapshot(tmp_path) == before


def test_certificates_last_as_long_as_asked_or_as_nvflare_allows(tmp_path: Path, make_topology) -> None:
    result = provision(make_topology(certificates={"root_days": 1000}), tmp_path / "long")
    days = {certificate.holder: certificate.days_left for certificate in result.certificates}
    assert days.keys() == {"root", *result.kits}
    assert days.pop("root") == 999
    assert set(days.values()) == {359}

    result = provision(make_topology(certificates={"root_days": 100}), tmp_path / "short")
    assert {certificate.days_left for certificate in result.certificates} == {99}


def test_a_certificate_is_renewed_before_it_expires(
    tmp_path: Path, make_topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    provision(make_topology("bonn", "ulm"), tmp_path)
    before = certificate(tmp_path, "bonn")
    monkeypatch.setattr(certificates, "RENEWAL_DAYS", 360)
    result = provision(make_topology("bonn", "ulm"), tmp_path)
    assert result.reissued == dict.fromkeys(result.kits, "359 days were left")
    assert certificate(tmp_path, "bonn").public_key() != before.public_key()


def test_a_certificate_that_ends_with_the_root_is_not_renewed_in_vain(
    tmp_path: Path, make_topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "RENEWAL_DAYS", 360)
    topology = make_topology(certificates={"root_days": 100})
    provision(topology, tmp_path)
    assert provision(topology, tmp_path).reissued == {}


@pytest.mark.parametrize("kits_done", [0, 1])
def test_an_interrupted_run_leaves_usable_kits_and_is_completed_by_the_next(
    tmp_path: Path, make_topology, monkeypatch: pytest.MonkeyPatch, kits_done: int
) -> None:
    provision(make_topology(server=SERVER), tmp_path)
    before = {name: certificate(tmp_path, name) for name in ("bonn", "server")}
    moved = make_topology(
        "bonn", "heidelberg", "ulm", "worms", server=SERVER | {"host": "elsewhere.example.org"}
    )

    with monkeypatch.context() as patch:
        original = kits.replace_folder
        done = []

        def interrupted(*args) -> bool:
            if len(done) == kits_done:
                raise KeyboardInterrupt
            done.append(args)
            return original(*args)

        patch.setattr(kits, "replace_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            provision(moved, tmp_path)
    assert {name: certificate(tmp_path, name) for name in before} == before
    assert previous(tmp_path) == make_topology(server=SERVER)

    result = provision(moved, tmp_path)
    assert "worms" in result.added
    assert {path.name for path in tmp_path.iterdir()} == {"firewall.md", "kits", "state"}
    fresh = provision(moved, tmp_path)
    assert (fresh.added, fresh.changed, fresh.reissued) == ((), (), {})


@pytest.mark.parametrize("folder", ["kits/bonn", "helm"])
def test_what_a_killed_run_had_set_aside_comes_back(tmp_path: Path, make_topology, folder: str) -> None:
    topology = make_topology(deploy={})
    provision(topology, tmp_path)
    before = snapshot(tmp_path / folder)
    retired = tmp_path / ".provision/retired" / folder
    retired.parent.mkdir(parents=True)
    (tmp_path / folder).rename(retired)
    result = provision(topology, tmp_path)
    assert (result.added, result.changed) == ((), ())
    assert snapshot(tmp_path / folder) == before


def test_what_nvflare_refuses_is_said_in_one_sentence(tmp_path: Path, make_topology) -> None:
    provision(make_topology(), tmp_path)
    (tmp_path / "state/cert.json").write_text(
        (tmp_path / "state/cert.json").read_text().replace("PRIVATE", "BROKEN")
    )
    with pytest.raises(ProvisionError, match="NVFlare could not make the kits"):
        provision(make_topology("bonn", "worms", "ulm", "heidelberg"), tmp_path)


def test_a_name_that_only_nvflare_refuses_is_no_traceback(tmp_path: Path, make_topology) -> None:
    topology = make_topology()
    server = topology.server.model_copy(update={"host": "mesh..org"})  # as no file may say it

    with pytest.raises(ProvisionError, match=r"NVFlare refuses.*mesh\.\.org"):
        provision(topology.model_copy(update={"server": server}), tmp_path)


def test_the_last_topology_is_remembered(tmp_path: Path, make_topology) -> None:
    assert previous(tmp_path) is None
    provision(make_topology(), tmp_path)
    assert previous(tmp_path) == make_topology()


def test_a_hundred_sites_take_under_15_seconds(tmp_path: Path, make_topology) -> None:
    topology = make_topology(*(f"site-{number}" for number in range(100)))
    started = time.process_time()  # what else runs on the machine does not count
    result = provision(topology, tmp_path)
    assert len(result.kits) == 100 + 1 + len(topology.admins)
    assert time.process_time() - started < 15
