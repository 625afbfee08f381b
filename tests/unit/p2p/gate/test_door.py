"""What a site's door lets in, and what it keeps out, with the reason that the submitter gets."""

import hashlib
import io
import json
import sys
import time
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_site import JOB

from flaremesh import algorithms
from flaremesh.p2p import participant
from flaremesh.p2p.charter import CHARTER, Code, Peer
from flaremesh.p2p.components import ALGORITHMS, PROBLEMS
from flaremesh.p2p.gate import archive, audit, order
from flaremesh.p2p.gate.approval import Approvals
from flaremesh.p2p.gate.deployer import SiteDoor
from flaremesh.p2p.participant import StartError
from flaremesh.p2p.store import ORDER
from flaremesh.topology.links import LinkKind

ALGORITHM = "flaremesh.p2p.executors.AlgorithmExecutor"
ANOTHER = "0c5e8a3c-1f4e-4a7e-8a65-7f2f0d3e9b21"
CONFIG = "config/config_fed_client.json"
OURS = "class Ours:\n    weights = None\n\ndef function(): ...\n"


def renew(app: Path, **fields) -> None:
    """Write the order anew, as one who may sign would, with other fields."""
    asked = json.loads((app / ORDER).read_text()) | fields
    (app / ORDER).unlink()
    asked["files"] = order.digests(app)
    (app / ORDER).write_text(json.dumps(asked))


def change(app: Path, **fields) -> None:
    config = json.loads((app / CONFIG).read_text())
    (app / CONFIG).write_text(json.dumps(config | fields))
    renew(app)


def run_algorithm(app: Path, name: str) -> None:
    change(app, executors=[executor(ALGORITHM, algorithm=name)])


def executor(path: str, **args) -> dict:
    return {"tasks": ["*"], "executor": {"path": path, "args": args}}


def component(path: str, **args) -> dict:
    return {"id": "trojan", "path": path, "args": args}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that leaves a trace when it is imported."""
    folder = tmp_path / "installed/our_models"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('it was imported')\n")
    (folder / "models.py").write_text(f"from subprocess import Popen\n{OURS}")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    return folder


def test_a_run_of_the_topology_is_let_in_for_the_admin_who_signed_it(site, app, submit):
    signer = site.admit(submit(app))
    assert (signer.name, signer.org, signer.role) == ("lead@example.org", "institute", "lead")


@pytest.mark.parametrize("signer", ["server", "ulm"])
def test_an_app_that_the_server_or_a_site_signed_is_refused(site, app, submit, signer):
    assert "no admin's" in site.admit(submit(app, signer))


def test_an_unsigned_app_is_refused(site, app):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        for file in (path for path in app.rglob("*") if path.is_file()):
            made.write(file, file.relative_to(app))
    assert "it is not signed altogether" in site.admit(packed.getvalue())


def test_an_app_that_was_changed_after_it_was_signed_is_refused(site, app, submit):
    signed = zipfile.ZipFile(io.BytesIO(submit(app)))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        for entry in signed.infolist():
            changed = signed.read(entry) + (b"\n" if entry.filename == CONFIG else b"")
            made.writestr(entry, changed)
    assert "a signature in it is wrong" in site.admit(packed.getvalue())


def test_a_signed_app_is_good_for_one_run(site, app, submit):
    order.write(replace(order.read(app), on_loss="fail"), app)
    captured = submit(app)
    door = SiteDoor()
    assert not isinstance(door.admit(site.workspace, JOB, captured), str)
    assert not isinstance(door.admit(site.workspace, ANOTHER, captured), str)
    assert door.begin(site.workspace, JOB) is None
    assert "this run has begun before" in door.begin(site.workspace, ANOTHER)
    assert "this run has begun before" in site.admit(captured)


@pytest.mark.parametrize(("hours", "reason"), [(-13, "more than 12 hours ago"), (1, "set the clock")])
def test_an_order_of_another_time_is_refused(site, app, submit, hours, reason):
    renew(app, at=(datetime.now(UTC) + timedelta(hours=hours)).isoformat())
    assert reason in site.admit(submit(app))


def test_a_file_that_the_order_does_not_list_is_refused(site, app, submit):
    (app / "config/problem.yaml").write_text("path: flaremesh.problems.digits.Digits\nargs: {}\n")
    assert "not what its order lists, in config.problem.yaml" in site.admit(submit(app))


def test_a_configuration_with_other_spaces_is_the_same(site, app, submit):
    file = app / "config/config_fed_client.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=7))  # as `nvflare job submit` does
    assert not isinstance(site.admit(submit(app)), str)


def test_a_job_without_an_order_is_refused_with_what_to_do(site, app, submit):
    (app / ORDER).unlink()
    assert "export it with this version" in site.admit(submit(app))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mesh": "another"}, "the job is for the mesh another, and this is pair"),
        ({"sites": ["ulm"]}, "the job is not for this site"),
        ({"edges": {"bonn": ["server"]}}, "the kit knows no edge bonn-server"),
        ({"edges": {"worms": ["bonn"]}}, "the kit knows no edge worms-bonn"),
        ({"run": "../../etc"}, "is no order of a run"),
    ],
)
def test_an_order_for_others_or_for_more_than_the_kit_allows_is_refused(site, app, submit, fields, reason):
    renew(app, **fields)
    assert reason in site.admit(submit(app))


def test_an_app_that_is_another_sites_is_refused(site, app, submit):
    renew(app, targets=["ulm"])
    assert "the app of the job that is another site's" in site.admit(submit(app))
    renew(app, targets=[])
    assert not isinstance(site.admit(submit(app)), str)


def test_an_edge_goes_the_way_that_the_kit_says_and_by_its_carriers(site, app, submit):
    site.allow(peers={"ulm": Peer(sends=True, receives=False, carriers=(LinkKind.DIRECT,))})
    assert "the kit knows no edge ulm-bonn" in site.admit(submit(app))
    renew(app, edges={"bonn": ["ulm"]}, links="relay")
    assert "does not let the edge with ulm travel by relay" in site.admit(submit(app))
    renew(app, edges={"bonn": ["ulm"]}, links="direct")
    assert not isinstance(site.admit(submit(app)), str)


@pytest.mark.parametrize(
    "path",
    [
        "flaremesh.class_path.class_at",
        "flaremesh.problems.reference.load_problem",
        "flaremesh.problems.digits.load_digits",
        "flaremesh.algorithms.registry.create",
        "flaremesh.p2p.executors.AlgorithmExecutor.execute",
        "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher",
        "nvflare.app_common.workflows.fedavg.FedAvg",
        "subprocess.Popen",
        "config.trojan.Trojan",
        "our_models.models.Ours",
    ],
)
def test_what_the_kit_does_not_list_is_refused_as_component_problem_and_algorithm(site, app, submit, path):
    (app / "config/problem.yaml").write_text(f"path: {path}\nargs: {{}}\n")
    renew(app)
    assert f"the kit does not allow {path}" in site.admit(submit(app))
    (app / "config/problem.yaml").write_text("path: flaremesh.problems.consensus.Consensus\nargs: {}\n")
    change(app, components=[component(path)])
    assert f"the kit does not allow {path}" in site.admit(submit(app))
    change(app, components=[component("flaremesh.p2p.types.Config", network={"path": path, "args": {}})])
    assert f"the kit does not allow {path}" in site.admit(submit(app))
    change(app, components=[])
    run_algorithm(app, path)
    assert f"the kit does not allow {path}" in site.admit(submit(app))


def test_a_value_that_is_no_name_is_refused_and_not_repeated(site, app, submit):
    run_algorithm(app, "x\x1b[2J.<script>")
    reason = site.admit(submit(app))
    assert "the job names what is no plain name where a class belongs" in reason


@pytest.mark.parametrize(
    ("change_of", "reason"),
    [
        ({"components": [{"id": "a", "name": "SubprocessLauncher"}]}, "the key `name`, `class_path`"),
        ({"components": [{"id": "a", "class_path": "subprocess.Popen"}]}, "the key `name`, `class_path`"),
        (
            {"components": [component("flaremesh.p2p.types.Config", extra="{$HOME}")]},
            "a variable or a secret",
        ),
        (
            {"components": [component("flaremesh.p2p.types.Config", e="${secret:A}")]},
            "a variable or a secret",
        ),
        (  # NVFlare formats it to {$HOME}, and that to the variable
            {"a": 36, "components": [component("flaremesh.p2p.types.Config", extra="{{{a:c}HOME}}")]},
            "a variable or a secret",
        ),
        (
            {"executors": [executor(ALGORITHM, class_attributes={"algorithm": "subprocess.Popen"})]},
            "class_attributes",
        ),
        ({"executors": [executor(ALGORITHM, algorithm="dgd")] * 2}, "has several executors"),
        (
            {"executors": [executor(ALGORITHM, algorithm="dgd", problem={"path": PROBLEMS[0]})]},
            "and another one in config/problem.yaml",
        ),
        ({"decomposer_module": "trojan"}, "has the entry decomposer_module"),
        ({"executors": []}, "has no executor"),
        ({"executors": [["x"]]}, "describes no executor"),
        ({"executors": {}}, "executors of config/config_fed_client.json is no list"),
    ],
)
def test_what_else_nvflare_would_load_is_refused(site, app, submit, change_of, reason):
    change(app, **change_of)
    assert reason in site.admit(submit(app))


@pytest.mark.parametrize(
    "name", ["config/trojan.py", "config/application.conf", "trojan.py", "local/log.json"]
)
def test_files_that_no_job_of_flaremesh_has_are_refused(site, app, submit, name):
    (app / name).parent.mkdir(exist_ok=True)
    (app / name).write_text("open('/tmp/trojan', 'w')\n")
    renew(app)
    assert f"no job of flaremesh has, {name.replace('/', '.')}" in site.admit(submit(app))


def bring(app: Path) -> None:
    (app / "custom").mkdir()
    (app / "custom/ours.py").write_text(OURS)
    (app / "config/problem.yaml").write_text("file: ours.py\nname: Ours\nargs: {}\n")
    renew(app)


def test_code_is_let_in_where_the_kit_accepts_it(site, app, submit):
    bring(app)
    assert "the kit here accepts no code of a job" in site.admit(submit(app))
    site.allow(Code(files=True))
    assert not isinstance(site.admit(submit(app)), str)


def test_code_must_be_that_which_somebody_has_read_where_the_kit_lists_it(site, app, submit):
    bring(app)
    digest = hashlib.sha256(OURS.encode()).hexdigest()
    site.allow(Code(files=True, sha256=("0" * 64,)))
    assert f"not that of custom.ours.py: add its SHA-256 {digest}" in site.admit(submit(app))
    site.allow(Code(files=True, sha256=(digest,)))
    assert not isinstance(site.admit(submit(app)), str)


def test_a_problem_must_arrive_where_code_is_looked_for(site, app, submit):
    (app / "config/problem.yaml").write_text("file: trojan.py\nname: Trojan\nargs: {}\n")
    renew(app)
    assert "trojan.py did not arrive with the job in custom/" in site.admit(submit(app))


@pytest.mark.usefixtures("package")
def test_a_class_of_a_package_that_the_kit_lists_is_let_in_without_importing_it(site, app, submit):
    site.allow(Code(packages=("our_models",)))
    run_algorithm(app, "our_models.models.Ours")
    assert not isinstance(site.admit(submit(app)), str)
    assert "our_models" not in sys.modules


@pytest.mark.parametrize("name", ["Popen", "function", "Missing"])
@pytest.mark.usefixtures("package")
def test_a_function_or_an_imported_name_of_a_package_is_refused(site, app, submit, name):
    site.allow(Code(packages=("our_models",)))
    run_algorithm(app, f"our_models.models.{name}")
    assert f"our_models.models defines no class {name}" in site.admit(submit(app))


def test_a_packages_module_must_have_been_read_too(site, app, submit, package):
    digest = hashlib.sha256((package / "models.py").read_bytes()).hexdigest()
    run_algorithm(app, "our_models.models.Ours")
    site.allow(Code(packages=("our_models",), sha256=("0" * 64,)))
    assert f"not that of our_models.models: add its SHA-256 {digest}" in site.admit(submit(app))
    site.allow(Code(packages=("our_models",), sha256=(digest,)))
    assert not isinstance(site.admit(submit(app)), str)


def test_nothing_in_a_workspace_is_an_installed_package(site, app, submit, monkeypatch):
    (site.workspace / "planted.py").write_text(OURS)
    monkeypatch.syspath_prepend(site.workspace)
    site.allow(Code(packages=("planted",)))
    run_algorithm(app, "planted.Ours")
    assert "planted lies in the site's workspace" in site.admit(submit(app))


def test_a_site_without_a_charter_lets_nothing_in(site, app, submit):
    (site.workspace / "startup" / CHARTER).unlink()
    assert "the kit here has no charter" in site.admit(submit(app))


def test_a_charter_that_the_root_did_not_sign_is_none(site, app, submit):
    file = site.workspace / "startup" / CHARTER
    document = json.loads(file.read_text())
    document["content"] = document["content"].replace("false", "true")
    file.write_text(json.dumps(document))
    assert "damaged, or not signed by the mesh's root" in site.admit(submit(app))


def test_every_decision_stands_in_the_audit_log_before_it_holds(site, app, submit):
    door = SiteDoor()
    door.admit(site.workspace, JOB, submit(app))
    door.begin(site.workspace, JOB)
    door.admit(site.workspace, ANOTHER, b"")
    assert door.refused == 1
    let_in, refused = audit.entries(site.workspace)
    assert (let_in["event"], let_in["job"], let_in["request"]["peers"]) == ("let in", JOB, ["ulm"])
    assert let_in["request"]["submitter"] == "lead@example.org"
    assert refused["reason"] == "the app is no archive that can be unpacked"


def test_a_server_that_sends_any_number_of_jobs_does_not_fill_the_log(site, monkeypatch):
    door, now = SiteDoor(), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(103):
        assert "no archive" in door.admit(site.workspace, JOB, b"")
    assert len(list(audit.entries(site.workspace))) == 100
    now += 61
    door.admit(site.workspace, JOB, b"")
    *_, last = audit.entries(site.workspace)
    assert (last["sequence"], last["not_noted_before"]) == (101, 3)


def test_a_site_that_cannot_write_its_log_runs_nothing(site, app, submit):
    door = SiteDoor()
    door.admit(site.workspace, JOB, submit(app))
    (site.workspace / "gate/audit.jsonl").mkdir(parents=True)
    assert "the site could not look at the job" in door.begin(site.workspace, JOB)


def test_a_job_that_is_sent_again_takes_the_place_of_the_one_before(site, app, submit):
    captured, door = submit(app), SiteDoor()
    door.admit(site.workspace, JOB, captured)
    door._waiting[JOB] = {}  # what NVFlare's part of the door knows of a job that it has unpacked
    (site.workspace / JOB).mkdir()
    door.admit(site.workspace, ANOTHER, captured)
    assert not (site.workspace / JOB).exists()
    assert door.begin(site.workspace, ANOTHER) is None


def test_a_run_that_breaks_the_sites_policy_is_refused_with_the_rule(site, app, submit):
    (site.workspace / "policy.yaml").write_text("submitters: {roles: [project_admin]}\n")
    assert site.admit(submit(app)).startswith("submitters: ")
    (refused,) = audit.entries(site.workspace)
    assert (refused["event"], refused["request"]["submitter"]) == ("refused", "lead@example.org")


def test_a_policy_is_asked_for_the_problem_that_an_executor_names(site, app, submit):
    (site.workspace / "policy.yaml").write_text("problems: [flaremesh.problems.mnist]\n")
    change(app, executors=[executor(ALGORITHM, algorithm="dgd", problem={"path": PROBLEMS[0]})])
    (app / "config/problem.yaml").unlink()
    renew(app)
    assert site.admit(submit(app)).startswith(f"problems: '{PROBLEMS[0]}' is not among")


def test_a_site_whose_policy_has_mistakes_says_so_when_it_starts(site):
    (site.workspace / "policy.yaml").write_text("aproval: required")
    with pytest.raises(StartError, match=r"^bonn: it would run nothing.*\n.*line 1: aproval"):
        participant.check(site.workspace, "bonn", gpus=0)


def test_a_run_waits_for_a_person_and_is_let_in_when_it_is_submitted_again(site, app, submit):
    (site.workspace / "policy.yaml").write_text("approval: required\n")
    door = SiteDoor()
    assert door.admit(site.workspace, JOB, submit(app)).startswith("waits for approval")
    assert door.refused == 0
    Approvals(site.workspace).approve(order.read(app).run, "ann")
    assert not isinstance(site.admit(submit(app)), str)


def test_an_approval_does_not_hold_for_the_same_run_with_other_arguments(site, app, submit):
    (site.workspace / "policy.yaml").write_text("approval: required\n")
    site.admit(submit(app))
    Approvals(site.workspace).approve(order.read(app).run, "ann")
    (app / "config/problem.yaml").write_text("path: flaremesh.problems.consensus.Consensus\nargs: {a: 1}\n")
    renew(app)
    assert "another run of the same id" in site.admit(submit(app))


def test_a_run_that_the_server_holds_back_begins_under_the_policy_of_then(site, app, submit):
    (site.workspace / "policy.yaml").write_text("approval: required\n")
    door, run = SiteDoor(), order.read(app).run
    site.admit(submit(app))
    Approvals(site.workspace).approve(run, "ann")
    assert not isinstance(door.admit(site.workspace, JOB, submit(app)), str)
    Approvals(site.workspace).deny(run, "ann")
    assert door.begin(site.workspace, JOB) == "a person at this site denied it"


def test_a_certificate_that_has_expired_signs_nothing(site, app, submit, monkeypatch):
    class InAYear(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=365)

    monkeypatch.setattr("flaremesh.certificates.datetime", InAYear)
    assert "expired" in site.admit(submit(app))


def test_what_is_revoked_signs_nothing(site, app, submit):
    signer = site.admit(submit(app))
    site.allow(revoked=(str(signer.serial),))
    renew(app, run="0" * 32)
    assert "is revoked" in site.admit(submit(app))


@pytest.mark.parametrize("name", ["/etc/passwd", "../startup/charter.json", "config/../../x", "a\\b", "a\nb"])
def test_an_archive_with_a_name_that_leads_elsewhere_is_refused(site, name):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr(name, "x")
    assert "leads out of its folder, or is none" in site.admit(packed.getvalue())


def test_an_archive_with_a_link_is_refused(site):
    packed = io.BytesIO()
    link = zipfile.ZipInfo("config")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr(link, "/etc")
    assert "holds a link" in site.admit(packed.getvalue())


def test_what_an_archive_unpacks_to_is_bounded(site, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 1 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("zeros", bytes(2 << 20))
    assert "larger than 1 MiB" in site.admit(packed.getvalue())
    monkeypatch.setattr(archive, "MOST_FILES", 1)
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("a", "")
        made.writestr("b", "")
    assert "more than 1 files" in site.admit(packed.getvalue())


def test_an_app_is_looked_at_where_no_run_can_change_it(site, app, submit, monkeypatch):
    found = []

    def look(*_):
        (scratch,) = site.workspace.glob("gate/app-*")
        found.append(scratch.stat().st_mode & 0o077)

    (site.workspace / "gate/app-left/config").mkdir(parents=True)  # when the process was killed
    monkeypatch.setattr(order, "check_files", look)
    assert not isinstance(site.admit(submit(app)), str)
    assert found == [0]
    assert not list(site.workspace.glob("gate/app-*"))


def test_what_is_no_archive_is_refused(site):
    assert "no archive" in site.admit(b"PK\x03\x04 and nothing more")


def test_the_allowed_algorithms_and_problems_are_those_of_flaremesh_itself():
    assert "flaremesh.algorithms.dgd.Dgd" in ALGORITHMS
    assert all(path.startswith("flaremesh.algorithms.") for path in ALGORITHMS)
    problems = Path(algorithms.__file__).parents[1] / "problems"
    for path in PROBLEMS:
        module, name = path.split(".")[-2:]
        assert f"class {name}" in (problems / f"{module}.py").read_text()
