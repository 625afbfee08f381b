"""What the server's own process takes of a job: an admin's, and JSON."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from nvflare.apis.fl_constant import SiteType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace
from nvflare.fuel.utils.config_factory import ConfigFactory
from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
from nvflare.private.fed.app.fl_app_validator import FLAppValidator
from nvflare.private.fed.server.job_meta_validator import JobMetaValidator
from nvflare.private.fed.utils.app_deployer import AppDeployer
from nvflare.private.fed.utils.fed_utils import security_init

from flaremesh.class_path import class_at
from flaremesh.p2p.charter import CHARTER
from flaremesh.p2p.gate import order

JOB = "6f1f6a0e-3f3a-4b39-9d0c-0d5a3f2f4a10"
META = 'name = "a", deploy_map { app: ["server", "bonn"] }'


@pytest.fixture
def server(provisioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The server's workspace, as its process has set itself up with what the kit says."""
    workspace = shutil.copytree(provisioned / "kits/server", tmp_path / "server")
    monkeypatch.setattr(ConfigFactory, "_fmt2Loader", dict(ConfigFactory._fmt2Loader))
    named = json.loads((workspace / "local/resources.json").read_text())["app_validator"]["path"]
    validator = FLAppValidator(SiteType.SERVER, [class_at(named)()])
    made = Workspace(str(workspace), "server")
    security_init(True, "consortium", made, validator, SiteType.SERVER)
    return made


@pytest.fixture
def app(app: Path) -> Path:
    return app.parent / "app_server"


def deploy(server: Workspace, archive: bytes) -> str | None:
    return AppDeployer().deploy(server, JOB, {}, "app_server", archive, FLContext())


def submit_meta(folder: Path, name: str, meta: str) -> tuple[bool, str, dict]:
    with zipfile.ZipFile(folder / "job.zip", "w") as archive:
        archive.writestr(f"job/{name}", meta)
        archive.writestr("job/app/", "")
        archive.writestr("job/app/config/", "")
        archive.writestr("job/app/config/config_fed_server.json", "{}")
        archive.writestr("job/app/config/config_fed_client.json", "{}")
    return JobMetaValidator().validate("job", str(folder / "job.zip"))


def test_an_app_that_an_admin_signed_is_deployed(server, app, submit):
    assert not deploy(server, submit(app))


@pytest.mark.parametrize(
    ("signer", "reason"), [("server", "does not pass signature verification"), ("ulm", "no admin's")]
)
def test_an_app_that_the_server_or_a_site_signed_is_refused(server, app, submit, signer, reason):
    assert reason in deploy(server, submit(app, signer))
    assert not Path(server.get_run_dir(JOB)).exists()


def test_an_unsigned_app_is_refused(server, app):
    assert "it is not signed altogether" in deploy(server, zip_directory_to_bytes(str(app), ""))


def test_a_server_without_a_charter_takes_nothing(server, app, submit):
    (Path(server.get_startup_kit_dir()) / CHARTER).unlink()
    assert "the kit here has no charter" in deploy(server, submit(app))


def test_an_order_of_another_app_is_refused(server, app, submit):
    (app / "config/more.json").write_text("{}")
    assert "not what its order lists, in config.more.json" in deploy(server, submit(app))


def test_code_for_the_server_is_refused_where_the_kit_accepts_none(server, app, submit):
    (app / "custom").mkdir()
    (app / "custom/trojan.py").write_text("class Trojan: ...\n")
    order.write(order.read(app), app)
    assert deploy(server, submit(app)) == "BYOC not permitted"


@pytest.mark.parametrize("name", ["meta.conf", "meta.conf.default", "meta.yml", "meta.yaml"])
def test_a_submission_reaches_no_file_and_no_variable_of_the_server(server, tmp_path, monkeypatch, name):
    monkeypatch.setenv("FLAREMESH_TEST_SECRET", "secret")
    (tmp_path / "secret.json").write_text('{"min_clients": 1}')
    hostile = f'include file("{tmp_path}/secret.json")\nsite = ${{FLAREMESH_TEST_SECRET}}\n{META}'
    valid, reason, meta = submit_meta(tmp_path, name, hostile)
    assert (valid, meta) == (False, {})
    assert "must be JSON" in reason
    assert "secret" not in reason


def test_a_variable_in_json_is_text(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FLAREMESH_TEST_SECRET", "secret")
    names = "{$FLAREMESH_TEST_SECRET} ${FLAREMESH_TEST_SECRET}"
    told = json.dumps({"name": names, "deploy_map": {"app": ["server", "bonn"]}})
    valid, _, meta = submit_meta(tmp_path, "meta.json", told)
    assert (valid, meta["name"]) == (True, names)


@pytest.mark.parametrize("name", ["config_fed_server.conf", "config_fed_server.yml"])
def test_a_configuration_that_is_no_json_is_not_read(server, app, submit, name):
    config = app / "config/config_fed_server.json"
    config.rename(config.with_name(name))
    order.write(order.read(app), app)
    with pytest.raises(Exception, match="when deploying app"):
        deploy(server, submit(app))
