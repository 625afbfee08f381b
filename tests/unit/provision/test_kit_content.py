"""What a kit holds, judged by NVFlare's own readers of it."""

import inspect
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_constant import AdminCommandNames
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.workspace import Workspace
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.private.fed.utils.fed_utils import require_signed_jobs
from nvflare.security.security import FLAuthorizer

from flaremesh.p2p import controllers, executors, types
from flaremesh.p2p.charter import read
from flaremesh.p2p.components import COMPONENTS
from flaremesh.p2p.storage import WorkspaceStorage
from flaremesh.provision.kits import provision
from flaremesh.topology.schema import Topology

ROLES = ("project_admin", "org_admin", "lead", "member")


@pytest.fixture(params=["server", "bonn"])
def kit(mesh: Path, request: pytest.FixtureRequest) -> Path:
    return mesh / "kits" / request.param


def allows(kit: Path, path: str) -> bool:
    try:
        ComponentPathAuthorizer().authorize_component_config({"path": path}, workspace=Workspace(str(kit)))
    except UnsafeComponentError:
        return False
    return True


def may(kit: Path, role: str, right: str) -> bool:
    policy = json.loads((kit / "local/authorization.json").read_text())
    person = Person("someone@example.org", "consortium", role)
    permitted, _ = FLAuthorizer("hospitals", policy).evaluate(AuthzContext(right, person, submitter=person))
    return bool(permitted)


def test_every_participant_gets_a_kit(mesh: Path) -> None:
    admins = {f"{role.replace('_', '-')}@example.org" for role in ROLES}
    assert {kit.name for kit in (mesh / "kits").iterdir()} == {"server", "bonn", "heidelberg", "ulm"} | admins


def test_a_kit_holds_final_settings_and_no_templates(kit: Path) -> None:
    names = {path.name for path in (kit / "local").iterdir()}
    door = {"flaremesh_door__p_resources.json"} if kit.name == "bonn" else set()
    assert names == door | {
        "authorization.json",
        "flaremesh__p_resources.json",
        "log_config.json",
        "resources.json",
    }


def test_a_job_may_build_flaremeshs_classes_and_nothing_else(kit: Path) -> None:
    assert allows(kit, "flaremesh.p2p.controllers.DistOptController")
    assert allows(kit, "flaremesh.p2p.executors.AlgorithmExecutor")
    assert not allows(kit, "flaremesh.class_path.class_at")
    assert not allows(kit, "flaremesh.problems.reference.load_problem")
    assert not allows(kit, "flaremesh.algorithms.registry.create")
    assert allows(kit, "flaremesh.problems.digits.Digits")
    assert not allows(kit, "nvflare.app_common.workflows.fedavg.FedAvg")
    assert not allows(kit, "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher")
    assert not allows(kit, "subprocess.Popen")
    assert not allows(kit, "flaremesh_impostor.Controller")
    assert not allows(kit, "our_models.Segmentation")


def test_every_component_is_listed_by_both_of_its_names() -> None:
    classes = {
        executors.__name__: [getattr(executors, name) for name in executors.__all__],
        controllers.__name__: [getattr(controllers, name) for name in controllers.__all__],
    }
    found = {
        name
        for package, members in classes.items()
        for cls in members
        if not inspect.isabstract(cls)
        for name in (f"{package}.{cls.__name__}", f"{cls.__module__}.{cls.__name__}")
    }
    data = (types.Config, types.LocalConfig, types.Neighbor, types.Network, types.Node)
    assert set(COMPONENTS) == found | {f"{types.__name__}.{cls.__name__}" for cls in data}


def test_a_package_in_the_topology_file_is_allowed_too(tmp_path: Path, make_topology) -> None:
    provision(make_topology(code={"packages": ["our_models"]}), tmp_path)
    for name in ("server", "bonn"):
        assert allows(tmp_path / "kits" / name, "our_models.Segmentation")


@pytest.mark.parametrize("role", ROLES)
def test_nobody_may_bring_code_along(kit: Path, role: str) -> None:
    assert not may(kit, role, "byoc")


def test_those_who_submit_may_bring_code_where_the_topology_file_says_so(
    tmp_path: Path, make_topology
) -> None:
    provision(make_topology(code={"files": True}), tmp_path)
    for name in ("server", "bonn"):
        assert [role for role in ROLES if may(tmp_path / "kits" / name, role, "byoc")] == [
            "project_admin",
            "lead",
        ]


def test_nobody_may_look_into_a_participants_files_and_logs(kit: Path) -> None:
    shell = {"pwd", "ls", "cat", "head", "tail", "grep"}
    watched = shell | {"configure_site_log", "configure_job_log"}
    assert not {(role, right) for role in ROLES for right in watched if may(kit, role, right)}


def test_a_project_admin_keeps_every_other_right(kit: Path) -> None:
    commands = {value for name, value in vars(AdminCommandNames).items() if name.isupper()}
    withheld = {command for command in commands if not may(kit, "project_admin", command)}
    watched = {"pwd", "ls", "cat", "head", "tail", "grep", "configure_site_log", "configure_job_log"}
    at_a_site = {"sys_info", "report_env", "shutdown", "restart"}
    assert withheld == (watched | at_a_site if kit.name == "bonn" else watched)


def test_a_kit_demands_that_jobs_are_signed(kit: Path) -> None:
    assert require_signed_jobs(
        Workspace(str(kit)), "fed_server.json" if kit.name == "server" else "fed_client.json"
    )
    for file in (kit / "startup").glob("fed_*.json"):
        assert json.loads(file.read_text())["require_signed_jobs"] is True


def test_who_may_abort_a_run_may_watch_it(kit: Path) -> None:
    for role in ROLES:
        assert may(kit, role, "app_command") == may(kit, role, "abort_job")


def test_the_agents_live_in_the_parent_process(mesh: Path) -> None:
    for name, agent in (("server", "ServerAgent"), ("bonn", "SiteAgent")):
        document = json.loads((mesh / "kits" / name / "local/flaremesh__p_resources.json").read_text())
        assert [component["path"] for component in document["components"]] == [
            f"flaremesh.p2p.agents.{agent}"
        ]


def test_a_sites_agent_is_told_what_the_site_shares(tmp_path: Path, make_topology) -> None:
    sites = [
        {"name": "bonn", "org": "ukb"},
        {"name": "ulm", "org": "uku", "metrics": {"share": []}},
    ]
    provision(make_topology(sites=sites, metrics={"share": ["ready", "train_loss"]}), tmp_path)
    shared = {}
    for site in ("bonn", "ulm"):
        document = json.loads((tmp_path / "kits" / site / "local/flaremesh__p_resources.json").read_text())
        shared[site] = document["components"][0]["args"]["share"]
    assert shared == {"bonn": ["ready", "train_loss"], "ulm": []}


def test_a_lost_site_is_noticed_within_a_minute(mesh: Path) -> None:
    resources = json.loads((mesh / "kits/server/local/resources.json").read_text())
    assert 30 <= resources["servers"][0]["heart_beat_timeout"] <= 60


def test_error_logs_stay_at_the_site(mesh: Path) -> None:
    assert json.loads((mesh / "kits/bonn/local/resources.json").read_text())["allow_log_streaming"] is False


def test_every_participant_dials_one_port_by_grpc(tmp_path: Path, make_topology) -> None:
    server = {"host": "mesh.example.org", "port": 9443, "org": "consortium"}
    provision(make_topology(server=server), tmp_path)
    site = json.loads((tmp_path / "kits/bonn/startup/fed_client.json").read_text())
    admin = json.loads((tmp_path / "kits/lead@example.org/startup/fed_admin.json").read_text())["admin"]
    assert site["servers"][0]["service"] == {"target": "mesh.example.org:9443", "scheme": "grpc"}
    assert (admin["host"], admin["port"], admin["scheme"]) == ("mesh.example.org", 9443, "grpc")


def test_a_kit_knows_no_folder_of_the_machine_that_made_it(mesh: Path) -> None:
    places = [str(mesh), str(Path.home()), str(Path.cwd()), sys.prefix, "/tmp"]
    files = [path for path in (mesh / "kits").rglob("*") if path.is_file()]
    assert files
    found = [(path.name, place) for path in files for place in places if f"{place}/" in path.read_text()]
    assert found == []


def test_the_server_keeps_jobs_and_snapshots_in_its_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # NVFlare makes the workspace the working directory
    WorkspaceStorage("storage/jobs").create_object("/run-1", b"content", {})
    assert (tmp_path / "storage/jobs/run-1/data").read_bytes() == b"content"


def test_private_keys_and_the_state_are_for_their_owner_only(mesh: Path) -> None:
    keys = list((mesh / "kits").glob("*/startup/*.key"))
    assert len(keys) == len(list((mesh / "kits").iterdir()))
    for path in [*keys, mesh / "state/cert.json", mesh / "state/topology.json"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((mesh / "state").stat().st_mode) == 0o700


def test_the_firewall_sheet_has_a_line_for_every_connection(tmp_path: Path, make_topology) -> None:
    link = {"host": "ukb.example.org", "ports": "8102-8105"}
    sites = [{"name": "bonn", "org": "ukb", "link": link}, {"name": "ulm", "org": "uku"}]
    provision(make_topology(sites=sites, graph={"kind": "complete"}), tmp_path)
    lines = (tmp_path / "firewall.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("|")][2:] == [
        "| bonn | server | mesh.example.org | 8002 |",
        "| ulm | server | mesh.example.org | 8002 |",
        "| ulm | bonn | ukb.example.org | 8102-8105 |",
    ]


@pytest.mark.parametrize(
    ("meet", "keeps"),
    [
        (None, {}),
        ({}, {"meeting_port": 8003}),
        ({"host": "Meet.Example.org", "port": 443}, {"meeting_port": 443}),
        ({"host": "elsewhere.example.org", "port": 443}, {}),
    ],
)
def test_the_server_keeps_a_meeting_point_that_has_a_name_of_its_own(
    tmp_path: Path, make_topology: Callable[..., Topology], meet: dict[str, Any] | None, keeps: dict[str, int]
) -> None:
    server = {"host": "head.example.org", "names": ["meet.example.org"], "org": "o", "meet": meet}
    provision(make_topology(server=server), tmp_path)
    resources = json.loads((tmp_path / "kits/server/local/flaremesh__p_resources.json").read_text())
    (agent,) = (each for each in resources["components"] if each["id"] == "flaremesh_agent")
    assert {name: value for name, value in agent["args"].items() if name != "kit"} == keeps
    charter = read(tmp_path / "kits/bonn/startup")
    expected = None if meet is None else (meet.get("host", "head.example.org"), meet.get("port", 8003))
    assert charter.meet == expected
