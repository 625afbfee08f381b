"""The process that a launcher starts for a job: what it gets, and what is left of it."""

import json
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.apis.workspace import Workspace

from flaremesh.certificates import Kind
from flaremesh.issuing import Authority, Profile, key_pem, new_key, pem
from flaremesh.p2p.job_launcher import ServerJobLauncher, SiteJobLauncher
from flaremesh.p2p.nvflare.run_credential import withdraw
from flaremesh.p2p.store import ORDER, store_of
from flaremesh.sandbox import landlock

SPY = """
import json, os, pathlib, sys
from nvflare.apis.workspace import Workspace
kit = Workspace(sys.argv[2])
files = {name: kit.get_file_path_in_startup(name) for name in sys.argv[3:]}
content = {name: pathlib.Path(path).read_text() for name, path in files.items()}
seen = {"cwd": os.getcwd(), "path": sys.path, "environment": dict(os.environ)}
seen |= {"content": content, "files": files}
stores = pathlib.Path(sys.argv[2], "stores")
for store in stores.iterdir() if stores.exists() else ():
    try:
        (store / "checkpoint").write_text("")
        seen.setdefault("stores", []).append(str(store))
    except OSError:
        pass
pathlib.Path("seen.json").write_text(json.dumps(seen))
pathlib.Path(os.environ["TMPDIR"], "left").touch()
"""


def kit(folder: Path, kind: Kind) -> Path:
    """A workspace with a kit and the folder of run-1, whose job brings code."""
    authority, key = Authority.new("mesh", 10), new_key()
    name = "server" if kind is Kind.SERVER else "bonn"
    owner = "server" if kind is Kind.SERVER else "client"
    certificate = authority.issue(Profile(kind, name, "hospitals"), key.public_key(), 10)
    files = {
        f"{owner}.crt": pem(certificate),
        f"{owner}.key": key_pem(key),
        "rootCA.pem": pem(authority.certificate),
    }
    if kind is Kind.SITE:
        files["runs.crt"] = pem(authority.for_runs(certificate))
    for part in ("startup", "local", "run-1/app_bonn/custom", "earlier/credential", "data/credential"):
        (folder / part).mkdir(parents=True)
    for file in ("earlier/credential/run.key", "data/credential/patients.csv"):
        (folder / file).touch()
    for file, content in files.items():
        (folder / "startup" / file).write_bytes(content)
    (folder / "run-1/app_bonn/custom/sitecustomize.py").write_text("open('/tmp/too-early', 'w')")
    return folder


def context(workspace: Path, *files: str) -> FLContext:
    fl_ctx = FLContext()
    arguments = {
        JobProcessArgs.EXE_MODULE: ("-m", "spy"),
        JobProcessArgs.WORKSPACE: ("-m", str(workspace)),
        JobProcessArgs.AUTH_TOKEN: ("-t", "token"),
        JobProcessArgs.OPTIONS: (files[0], " ".join(files[1:])),
    }
    fl_ctx.set_prop(FLContextKey.JOB_PROCESS_ARGS, arguments, private=True, sticky=False)
    fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, Workspace(str(workspace), "bonn"), private=True)
    return fl_ctx


@pytest.fixture(autouse=True)
def _spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/spy.py").write_text(SPY)
    found = [str(tmp_path / "modules"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(found))
    monkeypatch.setenv("DATABASE_URL", "secret")


def test_a_sites_job_gets_a_certificate_of_its_own_and_leaves_no_key(tmp_path):
    workspace = kit(tmp_path / "work", Kind.SITE)
    handle = SiteJobLauncher().launch_job({"job_id": "run-1"}, context(workspace, "client.key", "client.crt"))
    handle.wait()
    seen = json.loads((workspace / "run-1/seen.json").read_text())
    leaf, issuer = x509.load_pem_x509_certificates(seen["content"]["client.crt"].encode())
    key = load_pem_private_key(seen["content"]["client.key"].encode(), None)
    assert key.public_key() == leaf.public_key()
    leaf.verify_directly_issued_by(issuer)
    root = x509.load_pem_x509_certificate((workspace / "startup/rootCA.pem").read_bytes())
    issuer.verify_directly_issued_by(root)
    own = x509.load_pem_x509_certificate((workspace / "startup/client.crt").read_bytes())
    assert leaf.subject == own.subject
    assert leaf.public_key() != own.public_key()
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days <= 2
    assert not (workspace / "run-1/credential").exists()
    assert not Path(seen["environment"]["TMPDIR"]).exists()


def test_a_jobs_process_works_in_its_runs_folder_with_a_listed_environment(tmp_path):
    workspace = kit(tmp_path / "work", Kind.SITE)
    SiteJobLauncher().launch_job({"job_id": "run-1"}, context(workspace, "client.key", "client.crt")).wait()
    seen = json.loads((workspace / "run-1/seen.json").read_text())
    assert seen["cwd"] == str(workspace / "run-1")
    assert seen["environment"]["NVFLARE_JOB_AUTH_TOKEN"] == "token"
    assert "DATABASE_URL" not in seen["environment"]
    assert not [folder for folder in seen["path"] if folder.startswith(str(workspace))]


def launch(workspace: Path) -> dict:
    """Start a job at a site; returns what its process has seen."""
    SiteJobLauncher().launch_job({"job_id": "run-1"}, context(workspace, "client.key", "client.crt")).wait()
    return json.loads((workspace / "run-1/seen.json").read_text())


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_a_runs_process_writes_the_store_of_its_run_and_no_other(tmp_path):
    workspace = kit(tmp_path / "work", Kind.SITE)
    other = workspace / "stores" / ("0" * 64)
    other.mkdir(parents=True)
    app = workspace / "run-1/app_bonn"
    (app / ORDER).parent.mkdir()
    (app / ORDER).write_text("{}")
    store = store_of(workspace, app)
    assert launch(workspace)["stores"] == [str(store)]
    assert (store / "checkpoint").exists()
    assert store.stat().st_mode & 0o077 == 0
    assert not list(other.iterdir())


def test_a_job_finds_no_mark_of_an_earlier_process_that_it_would_have_to_remove(tmp_path):
    workspace = kit(tmp_path / "work", Kind.SITE)
    marks = [workspace / "restart.fl", workspace / "shutdown.fl"]
    for mark in marks:
        mark.touch()
    assert launch(workspace)
    assert not any(mark.exists() for mark in marks)


def test_a_job_that_is_no_run_has_no_store(tmp_path):
    workspace = kit(tmp_path / "work", Kind.SITE)
    assert "stores" not in launch(workspace)
    assert not (workspace / "stores").exists()


def test_the_servers_job_gets_a_key_that_is_nobodys(tmp_path):
    workspace = kit(tmp_path / "work", Kind.SERVER)
    ServerJobLauncher().launch_job({"job_id": "run-1"}, context(workspace, "server.key", "server.crt")).wait()
    seen = json.loads((workspace / "run-1/seen.json").read_text())
    key = load_pem_private_key(seen["content"]["server.key"].encode(), None)
    own = x509.load_pem_x509_certificate((workspace / "startup/server.crt").read_bytes())
    assert key.public_key() != own.public_key()
    assert seen["files"]["server.crt"] == str(workspace / "startup/server.crt")


def test_a_kit_of_an_earlier_version_is_refused_in_words(tmp_path):
    workspace = kit(tmp_path / "work", Kind.SITE)
    (workspace / "startup/runs.crt").unlink()
    with pytest.raises(RuntimeError, match=r"has no runs\.crt: .* `flaremesh provision`, and install it"):
        SiteJobLauncher().launch_job({"job_id": "run-1"}, context(workspace, "client.key", "client.crt"))
    assert not (workspace / "run-1/credential").exists()


def test_a_participant_says_when_it_starts_that_it_cannot_confine_jobs(tmp_path, monkeypatch, caplog):
    workspace = kit(tmp_path / "work", Kind.SITE)
    monkeypatch.setattr(landlock, "version", lambda: 0)
    SiteJobLauncher().handle_event("_system_bootstrap", context(workspace, "client.key", "client.crt"))
    assert "the code of a job can read the kit's private key" in caplog.text


def test_a_participant_that_starts_removes_what_an_earlier_process_left(tmp_path):
    workspace = kit(tmp_path / "work", Kind.SITE)
    SiteJobLauncher().handle_event("_system_bootstrap", context(workspace, "client.key", "client.crt"))
    assert not (workspace / "earlier/credential").exists()
    assert (workspace / "data/credential/patients.csv").exists()


def test_removing_a_credential_follows_no_link_that_the_run_has_made(tmp_path):
    workspace = kit(tmp_path / "work", Kind.SITE)
    (workspace / "run-1/credential").symlink_to(workspace / "earlier/credential")
    withdraw(workspace / "run-1")
    assert not (workspace / "run-1/credential").is_symlink()
    assert (workspace / "earlier/credential/run.key").exists()
