"""Whoever runs the server deploys only what an admin has signed for this run, and reads no file of a site."""

import io
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attacked_mesh import END_SECONDS, LEAD, SITES, AttackedMesh, attacked_mesh, wait_until
from nvflare.lighter.utils import load_private_key_file, sign_folders
from prometheus_client.parser import text_string_to_metric_families

from flaremesh.p2p.gate import audit, order
from flaremesh.p2p.gate.begun import MOST_ATTEMPTS_FINISHED


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedMesh]:
    with attacked_mesh(tmp_path_factory.mktemp("mesh"), ["server"]) as mesh:
        yield mesh


@pytest.fixture
def app(mesh: AttackedMesh, tmp_path: Path) -> Path:
    """The sites' app of an honest job."""
    return mesh.job(tmp_path / "job") / "app_sites"


def sign(mesh: AttackedMesh, folder: Path, signer: str, depth: int = 9999) -> None:
    startup = mesh.folder / "kits" / signer / "startup"
    owner = "server" if signer == "server" else "client"
    key = load_private_key_file(str(startup / f"{owner}.key"))
    sign_folders(str(folder), key, str(startup / f"{owner}.crt"), max_depth=depth)


def deploy(mesh: AttackedMesh, app: Path, job: str | None = None) -> dict[str, str]:
    """What each site answers to the server that brings an app."""
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        for path in sorted(app.rglob("*")):
            archive.write(path, path.relative_to(app))
    told = {"app": packed.getvalue(), "job": job or str(uuid.uuid4())}
    return dict(mesh.tell("server", "server_attacks.deploy", **told))


def all_say(replies: dict[str, str], *words: str) -> bool:
    assert replies.keys() == set(SITES), replies
    assert all(any(word in reply for word in words) for reply in replies.values()), replies
    return True


def test_an_app_that_nobody_signed_is_refused(mesh: AttackedMesh, app: Path) -> None:
    assert all_say(deploy(mesh, app), "must sign a job")


@pytest.mark.parametrize("signer", ["server", "carol"])
def test_an_app_that_no_admin_signed_is_refused(mesh: AttackedMesh, app: Path, signer: str) -> None:
    sign(mesh, app, signer)
    assert all_say(deploy(mesh, app), "must sign a job")


def test_an_app_of_which_an_admin_signed_a_part_is_refused(mesh: AttackedMesh, app: Path) -> None:
    sign(mesh, app, LEAD)
    sign(mesh, app / "config", "server")
    assert all_say(deploy(mesh, app), "must sign a job")


def test_a_file_that_was_changed_after_the_signature_is_refused(mesh: AttackedMesh, app: Path) -> None:
    sign(mesh, app, LEAD)
    (app / "config/problem.yaml").write_text("path: flaremesh.problems.digits.Digits\n")
    assert all_say(deploy(mesh, app), "must sign a job")


def test_an_app_of_parts_of_two_signed_jobs_is_refused(mesh: AttackedMesh, app: Path, tmp_path: Path) -> None:
    other = mesh.job(tmp_path / "other", stepsize=0.5, algorithm="gradient-tracking") / "app_sites"
    sign(mesh, app, LEAD)
    sign(mesh, other, LEAD)
    shutil.rmtree(app / "config")
    shutil.copytree(other / "config", app / "config", ignore=shutil.ignore_patterns("problem.yaml"))
    assert all_say(deploy(mesh, app), "must sign a job", "not what its order lists")


def test_an_app_that_was_signed_for_others_is_refused(mesh: AttackedMesh, app: Path) -> None:
    order.write(replace(order.read(app), targets=("dora",)), app)
    sign(mesh, app, LEAD)
    assert all_say(deploy(mesh, app), "that is another site's")


def test_a_signed_job_that_waits_for_nobody_is_good_for_one_run(mesh: AttackedMesh, app: Path) -> None:
    order.write(replace(order.read(app), on_loss="fail"), app)
    sign(mesh, app, LEAD)
    job = str(uuid.uuid4())
    assert all_say(deploy(mesh, app, job), "deployed")
    mesh.tell("server", "server_attacks.start", job=job)
    assert all_say(deploy(mesh, app), "has begun before")
    mesh.tell("server", "server_attacks.command", topic="train.abort", body=None, job=job)


def waiting(app: Path, **fields: Any) -> Path:
    """The app of a run that waits for what it loses."""
    order.write(replace(order.read(app), on_loss="wait", **fields), app)
    return app


def begin(mesh: AttackedMesh, app: Path) -> dict[str, str]:
    """What each site answers to the server that starts an app which it has just let in."""
    job = str(uuid.uuid4())
    assert all_say(deploy(mesh, app, job), "deployed")
    return dict(mesh.tell("server", "server_attacks.start", job=job))


def running(mesh: AttackedMesh) -> set[int]:
    """How many jobs run, at any site."""
    pages = (mesh.get(site, "/metrics").decode() for site in SITES)
    return {
        int(sample.value)
        for page in pages
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "flaremesh_running_jobs"
    }


def test_a_run_that_has_finished_gets_few_further_attempts(mesh: AttackedMesh, tmp_path: Path) -> None:
    mesh.tell("server", "server_attacks.conceal_ends")
    job = mesh.job(tmp_path / "job", iterations=10)
    waiting(job / "app_server")
    app = waiting(job / "app_sites")
    with mesh.session() as session:
        run_id = session.submit(job)
        assert session.wait(run_id, END_SECONDS)
        assert session.job(run_id).status == "FINISHED:COMPLETED"
    sign(mesh, app, LEAD)
    for number in range(MOST_ATTEMPTS_FINISHED):
        wait_until(lambda: running(mesh) == {0}, END_SECONDS)
        begin(mesh, app)
        for site in SITES:
            *_, last = audit.entries(mesh.workspace(site))
            assert (last["event"], last["attempt"]) == ("attempt", 2 + number)
    assert all_say(deploy(mesh, app), "has finished here, and 3 attempts have followed")


def test_another_app_under_the_id_of_a_run_is_no_attempt_of_it(
    mesh: AttackedMesh, app: Path, tmp_path: Path
) -> None:
    sign(mesh, waiting(app), LEAD)
    begin(mesh, app)
    run = order.read(app).run
    other = waiting(mesh.job(tmp_path / "other", stepsize=0.5) / "app_sites", run=run)
    sign(mesh, other, LEAD)
    assert all_say(deploy(mesh, other), "another job has begun here under this run's id")


def test_attempts_of_a_run_come_one_after_the_other(mesh: AttackedMesh, tmp_path: Path) -> None:
    job = mesh.job(tmp_path / "job")
    waiting(job / "app_server")
    app = waiting(job / "app_sites")
    with mesh.session() as session:
        run_id = session.submit(job)
        wait_until(lambda: running(mesh) == {1}, END_SECONDS)
        sign(mesh, app, LEAD)
        assert all_say(deploy(mesh, app), "still runs here")
        session.abort(run_id, END_SECONDS)
    wait_until(lambda: running(mesh) == {0}, END_SECONDS)
    begin(mesh, app)
    for site in SITES:
        *_, last = audit.entries(mesh.workspace(site))
        assert (last["event"], last["attempt"]) == ("attempt", 2)


def test_a_signed_job_of_yesterday_is_refused(mesh: AttackedMesh, app: Path) -> None:
    asked = order.read(app)
    order.write(replace(asked, at=asked.at - timedelta(days=1)), app)
    sign(mesh, app, LEAD)
    assert all_say(deploy(mesh, app), "hours ago")


@pytest.mark.parametrize("job", ["../../startup", "/tmp/elsewhere", "local", ""])
def test_a_job_whose_id_would_be_another_folder_is_refused(mesh: AttackedMesh, app: Path, job: str) -> None:
    sign(mesh, app, LEAD)
    told = mesh.tell("server", "server_attacks.deploy", app=b"", job=job)
    assert all_say(told, "id")


def test_a_job_that_was_not_let_in_is_not_started(mesh: AttackedMesh) -> None:
    replies = mesh.tell("server", "server_attacks.start", job=str(uuid.uuid4()))
    assert all_say(replies, "has not let this job in")


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        ("sys.shell", "cat startup/client.key"),
        ("sys.shell", "grep -r PRIVATE ."),
        ("sys.report_env", None),
        ("sys.configure_site_log", "DEBUG"),
        ("train.shutdown", None),
        ("train.restart", None),
    ],
)
def test_what_no_run_needs_is_answered_to_nobody(mesh: AttackedMesh, topic: str, body: object) -> None:
    replies = mesh.tell("server", "server_attacks.command", topic=topic, body=body)
    assert replies.keys() == set(SITES)
    assert all("PRIVATE" not in reply for reply in replies.values())
    assert all_say(replies, "answers only what runs need")


def test_a_project_admin_reads_no_file_of_a_site(mesh: AttackedMesh) -> None:
    with mesh.session("admin@example.org") as session:
        answers = [
            session._admin._session.do_command(f"{command} adam {file}")
            for command in ("cat", "tail", "head")
            for file in ("startup/client.key", "log.txt")
        ]
    assert not any("PRIVATE" in str(answer) or "Communicator" in str(answer) for answer in answers)
