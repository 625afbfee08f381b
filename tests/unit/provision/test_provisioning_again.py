"""What a further provisioning changes, and what it leaves alone."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from cryptography import x509

from flaremesh.provision import certificates, kits
from flaremesh.provision.kits import ProvisionError, provision
from flaremesh.provision.state import StateError, previous

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


def test_a_new_site_changes_the_kits_of_its_neighbours_alone(tmp_path: Path, make_topology) -> None:
    provision(make_topology("bonn", "kiel", "mainz", "ulm", graph={"kind": "path"}), tmp_path)
    before = snapshot(tmp_path / "kits")
    result = provision(
        make_topology("bonn", "kiel", "mainz", "ulm", "worms", graph={"kind": "path"}), tmp_path
    )
    assert touched(before, snapshot(tmp_path / "kits")) == {"ulm", "worms"}
    assert (result.added, result.changed) == (("worms",), ("ulm",))


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
    assert touched(before, snapshot(tmp_path / "kits")) == {"bonn", "heidelberg", "ulm"}
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


@pytest.mark.parametrize(("asked", "days_left"), [({}, 359), ({"days": 90}, 89)])
def test_certificates_last_as_long_as_asked(
    tmp_path: Path, make_topology, asked: dict, days_left: int
) -> None:
    result = provision(make_topology(certificates={"root_days": 1000} | asked), tmp_path)
    days = {certificate.holder: certificate.days_left for certificate in result.certificates}
    assert days.keys() == {"root", *result.kits}
    assert days.pop("root") == 999
    assert set(days.values()) == {days_left}


def test_no_certificate_outlives_the_root(tmp_path: Path, make_topology) -> None:
    result = provision(make_topology(certificates={"root_days": 100}), tmp_path)
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


def test_renewing_one_participant_leaves_every_other_kit_alone(tmp_path: Path, make_topology) -> None:
    provision(make_topology(), tmp_path)
    before, old = snapshot(tmp_path / "kits"), certificate(tmp_path, "bonn")
    result = provision(make_topology(), tmp_path, renew=["bonn"])
    assert touched(before, snapshot(tmp_path / "kits")) == {"bonn"}
    new = certificate(tmp_path, "bonn")
    assert new.public_key() != old.public_key()
    assert new.not_valid_before_utc > old.not_valid_before_utc
    assert [(one.holder, one.serial) for one in result.retired] == [("bonn", old.serial_number)]


def test_kits_of_an_earlier_version_get_certificates_that_say_what_their_holder_is(
    tmp_path: Path, make_topology
) -> None:
    provision(make_topology(), tmp_path)
    file = tmp_path / "state/cert.json"
    state = json.loads(file.read_text())
    state["bonn"]["cert"] = state["root_cert"]  # says neither kind nor name
    file.write_text(json.dumps(state))
    assert provision(make_topology(), tmp_path).reissued.keys() == {"bonn"}


def test_who_is_revoked_gets_a_new_key_and_certificate(tmp_path: Path, make_topology) -> None:
    first = provision(make_topology(), tmp_path)
    (serial,) = (str(one.serial) for one in first.certificates if one.holder == "bonn")
    topology = make_topology(certificates={"revoked": [serial]})

    assert provision(topology, tmp_path).reissued == {"bonn": "it is revoked"}
    assert provision(topology, tmp_path).reissued == {}


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


@pytest.mark.parametrize("folder", ["kits/bonn", "kits/bonn/startup", "helm", "helm/bonn/flaremesh-site"])
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
    with pytest.raises(kits.KitsRefused, match=r"bonn|server"):
        kits.MeshProject(make_topology()).make_kits(kits.Settings([], False, {}, {}), {}, tmp_path)


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


def leave(out: Path, *paths: str) -> dict[Path, bytes]:
    """Files that are no part of a kit, with a content of their own each."""
    files = {out / path: path.encode() for path in paths}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files


def contents(files: dict[Path, bytes]) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.exists() else None for path in files}


BESIDE_KITS = (
    "kits/server/storage/jobs/1/meta",
    "kits/server/log.txt",
    "kits/bonn/run-1/flaremesh/history.jsonl",
    "kits/bonn/local/custom/ours.py",
    "kits/bonn/startup/notes.txt",
    "kits/lead@example.org/transfer/run-1/workspace/result.json",
)


def test_what_lies_beside_a_kit_is_no_change_of_it(tmp_path: Path, make_topology) -> None:
    provision(make_topology(), tmp_path)
    files = leave(tmp_path, *BESIDE_KITS)
    result = provision(make_topology(), tmp_path)
    assert (result.added, result.changed) == ((), ())
    assert contents(files) == files


def test_what_lies_beside_a_kit_stays_when_the_kit_is_replaced(tmp_path: Path, make_topology) -> None:
    provision(make_topology(server=SERVER), tmp_path)
    files = leave(tmp_path, *BESIDE_KITS)
    moved = make_topology(server=SERVER | {"host": "elsewhere.example.org"})
    assert set(provision(moved, tmp_path).changed) == {path.name for path in (tmp_path / "kits").iterdir()}
    assert contents(files) == files
    assert provision(moved, tmp_path).changed == ()


def test_what_lies_beside_the_kit_of_a_removed_site_stays_and_is_told(tmp_path: Path, make_topology) -> None:
    provision(make_topology("bonn", "heidelberg", "ulm", deploy={}), tmp_path)
    keys = private_keys(tmp_path / "kits/heidelberg") | private_keys(tmp_path / "kits/ulm")
    files = leave(
        tmp_path, "kits/heidelberg/log.txt", "kits/heidelberg/transfer/x", "helm/heidelberg/mine.yaml"
    )
    result = provision(make_topology("bonn", "aachen", deploy={}), tmp_path, remove=True)
    assert result.removed == ("heidelberg", "ulm")
    assert result.kept == (tmp_path / "kits/heidelberg", tmp_path / "helm/heidelberg")
    assert contents(files) == files
    assert private_keys(tmp_path).isdisjoint(keys)
    assert not (tmp_path / "kits/ulm").exists()
    assert not (tmp_path / "helm/ulm").exists()
    again = provision(make_topology("bonn", "aachen", "heidelberg", deploy={}), tmp_path)
    assert again.added == ("heidelberg",)
    assert contents(files) == files


def test_what_admins_put_beside_a_release_stays_and_old_parts_of_a_chart_do_not(
    tmp_path: Path, make_topology
) -> None:
    provision(make_topology(deploy={"monitoring": "watch"}), tmp_path)
    files = leave(
        tmp_path,
        "helm/bonn/mine.yaml",
        "helm/bonn/secrets/values.yaml",
        "helm/own/values.yaml",
        "helm/notes.txt",
        "helm/monitoring/mine.yaml",
    )
    (old,) = leave(tmp_path, "helm/bonn/flaremesh-site/templates/old.yaml")
    provision(make_topology(deploy={"values": {"storage": {"size": "50Gi"}}}), tmp_path)
    assert contents(files) == files
    assert not old.exists()
    assert "50Gi" in (tmp_path / "helm/bonn/values.yaml").read_text()
    assert {path.name for path in (tmp_path / "helm/monitoring").iterdir()} == {"mine.yaml"}
    assert (tmp_path / "helm/ulm/mine.yaml").exists()


DAMAGE = {
    "empty": b"",
    "truncated": b'{"root_cert": "-----BEGIN',
    "binary": bytes(range(256)),
    "null": b"null",
    "a list": b"[1]",
    "no certificates": b"{}",
    "wrong types": b'{"root_cert": 1, "root_pri_key": [], "bonn": "x"}',
    "no PEM": b'{"root_cert": "not PEM", "root_pri_key": "x"}',
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_damaged_certificates_are_told_with_what_a_new_root_means(
    tmp_path: Path, make_topology, content: bytes
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/cert.json").write_bytes(content)
    with pytest.raises(StateError, match=r"state/cert\.json.*Restore it from a copy.*new root certificate"):
        provision(make_topology(), tmp_path)
    assert (tmp_path / "state/cert.json").read_bytes() == content


def test_a_participant_without_its_key_is_damage_too(tmp_path: Path, make_topology) -> None:
    provision(make_topology(), tmp_path)
    file = tmp_path / "state/cert.json"
    content = json.loads(file.read_text())
    del content["bonn"]["pri_key"]
    file.write_text(json.dumps(content))
    with pytest.raises(StateError, match="missing or damaged"):
        provision(make_topology(), tmp_path)


def test_a_folder_in_the_place_of_the_certificates_is_told(tmp_path: Path, make_topology) -> None:
    (tmp_path / "state/cert.json").mkdir(parents=True)
    with pytest.raises(StateError, match="Is a directory"):
        provision(make_topology(), tmp_path)


@pytest.mark.parametrize("content", [*DAMAGE.values(), b'{"x": 1}'], ids=[*DAMAGE, "of another version"])
def test_a_damaged_record_of_the_last_topology_is_told_and_may_be_removed(
    tmp_path: Path, make_topology, content: bytes
) -> None:
    provision(make_topology(), tmp_path)
    file = tmp_path / "state/topology.json"
    file.write_bytes(content)
    with pytest.raises(StateError, match=r"state/topology\.json.*another version.*or remove it"):
        previous(tmp_path)
    file.unlink()
    assert previous(tmp_path) is None


def test_a_topology_with_a_field_of_a_newer_version_is_told_by_its_name(
    tmp_path: Path, make_topology
) -> None:
    provision(make_topology(), tmp_path)
    file = tmp_path / "state/topology.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantum": True}))
    with pytest.raises(StateError, match="quantum"):
        previous(tmp_path)


@pytest.mark.parametrize("damage", ["gone", "half", "file", "no PEM"])
def test_a_damaged_kit_is_made_anew(tmp_path: Path, make_topology, damage: str) -> None:
    provision(make_topology(), tmp_path)
    kit = tmp_path / "kits/bonn"
    before = {path.relative_to(kit): path.read_bytes() for path in kit.rglob("*") if path.is_file()}
    if damage in ("gone", "file"):
        shutil.rmtree(kit)
    elif damage == "half":
        shutil.rmtree(kit / "startup")
    if damage == "file":
        kit.write_text("a file")
    elif damage == "no PEM":
        (kit / "startup/client.crt").write_bytes(b"\xff")
    result = provision(make_topology(), tmp_path)
    assert {*result.added, *result.changed} == {"bonn"}
    assert {path.relative_to(kit): path.read_bytes() for path in kit.rglob("*") if path.is_file()} == before
