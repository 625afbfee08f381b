"""What NVFlare's builders write into startup kits: those of a small project."""

import json
from pathlib import Path

import pytest
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.workspace import Workspace
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.lighter.constants import CtxKey, PropKey
from nvflare.lighter.entity import Project
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner
from nvflare.lighter.spec import Builder

from flaremesh.p2p.nvflare.allow_list import let_simulator_allow
from flaremesh.p2p.nvflare.settings import AGENT_RESOURCES
from flaremesh.p2p.nvflare.startup import DOOR_RESOURCES

ADMIN, SERVER, SITE = "lead@example.org", "server", "bonn"


class Witness(Builder):
    """Stands where flaremesh's own builder does, and remembers what it finds."""

    found: dict[str, dict[str, str]]

    def finalize(self, project, ctx):
        self.found = {
            participant.name: {
                path.name: path.read_text() for path in Path(ctx.get_local_dir(participant)).iterdir()
            }
            for participant in project.get_all_participants()
        }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder, witness = tmp_path_factory.mktemp("kits"), Witness()
    project = Project(
        name="ring", description="", props={"api_version": 3, PropKey.ALLOW_LOG_STREAMING: False}
    )
    ports = {PropKey.FED_LEARN_PORT: 8002, PropKey.ADMIN_PORT: 8002}
    names = {PropKey.DEFAULT_HOST: "mesh.example.org", PropKey.HOST_NAMES: ["localhost"]}
    project.set_server(SERVER, "consortium", ports | names)
    project.add_client(SITE, "hospitals", {PropKey.CAPACITY: {PropKey.NUM_GPUS: 0}, "flaremesh": {"a": 1}})
    project.add_admin(ADMIN, "consortium", {PropKey.ROLE: "lead"})
    builders = [
        WorkspaceBuilder(),
        witness,
        StaticFileBuilder(config_folder="config", scheme="grpc"),
    ]
    context = Provisioner(str(folder), builders).provision(project)
    assert not context.get(CtxKey.BUILD_ERROR), f"Provisioner failed: {context.get(CtxKey.ERRORS)}"
    return Path(context.get_result_location()), witness.found


def document(built, participant, name):
    return json.loads(built[1][participant][name])


@pytest.mark.parametrize(
    ("participant", "file"),
    [(SERVER, "fed_server.json"), (SITE, "fed_client.json"), (ADMIN, "fed_admin.json")],
)
def test_a_kit_names_the_certificate_the_key_and_the_root_that_flaremesh_puts_there(built, participant, file):
    text = (built[0] / participant / "startup" / file).read_text()
    owner = "server" if participant == SERVER else "client"
    missing = {name for name in (f"{owner}.crt", f"{owner}.key", "rootCA.pem") if f'"{name}"' not in text}
    assert not missing, f"{file} no longer names {', '.join(sorted(missing))}"
    assert (built[0] / participant / "local").is_dir(), f"the kit of {participant} has no folder local"


@pytest.mark.parametrize("participant", [SERVER, SITE])
def test_the_default_files_are_there_when_the_builder_between_finishes(built, participant):
    expected = {"resources.json.default", "authorization.json.default", "log_config.json.default"}
    missing = expected - built[1][participant].keys()
    assert not missing, f"of {participant}, the builder no longer finds {', '.join(sorted(missing))}"


def test_the_servers_resources_have_the_entries_that_flaremesh_replaces(built):
    resources = document(built, SERVER, "resources.json.default")
    assert isinstance(resources["servers"][0], dict), "resources.json: servers changed"
    assert "storage" in resources["snapshot_persistor"]["args"], "resources.json: snapshot_persistor changed"
    components = {component["id"]: component for component in resources["components"]}
    assert {"job_store", "job_manager"} <= components.keys(), f"resources.json: only {', '.join(components)}"
    assert "uri_root" in components["job_manager"]["args"], "resources.json: job_manager changed"


@pytest.mark.parametrize("participant", [SERVER, SITE])
def test_resources_name_the_job_launcher_and_allow_classes_by_a_list(built, participant):
    resources = document(built, participant, "resources.json.default")
    components = {component["id"] for component in resources["components"]}
    assert "process_launcher" in components, f"resources.json of {participant}: no process_launcher"
    assert isinstance(resources["class_allow_list"], list), (
        f"resources.json of {participant}: class_allow_list"
    )


@pytest.mark.parametrize("participant", [SERVER, SITE])
def test_the_policy_gives_rights_to_roles(built, participant):
    roles = document(built, participant, "authorization.json.default")["permissions"]
    assert {"project_admin", "org_admin", "lead", "member"} <= roles.keys(), (
        "authorization.json: roles changed"
    )
    assert {"manage_job", "submit_job"} <= roles["lead"].keys(), "authorization.json: rights of lead changed"


@pytest.mark.parametrize("participant", [SERVER, SITE])
def test_the_logs_are_filtered_by_names_of_loggers(built, participant):
    filters = document(built, participant, "log_config.json.default")["filters"]
    assert isinstance(filters["FLFilter"]["logger_names"], list), "log_config.json: FLFilter changed"


@pytest.mark.parametrize("name", [AGENT_RESOURCES, DOOR_RESOURCES])
def test_agent_and_door_are_loaded_by_a_participants_own_process_and_never_by_a_jobs(tmp_path, name):
    for part in ("startup", "local"):
        (tmp_path / part).mkdir()
    for file in ("local/resources.json", f"local/{name}", "startup/fed_client.json"):
        (tmp_path / file).write_text("{}")
    workspace = Workspace(str(tmp_path))
    own, jobs = (
        {Path(file).name for file in workspace.get_config_files_for_startup(is_server=False, for_job=job)}
        for job in (False, True)
    )
    assert name in own, f"Workspace: a site's process no longer reads {name}"
    assert name not in jobs, f"Workspace: a job's process now reads {name}"


def test_the_simulator_reads_a_list_of_allowed_classes_in_its_workspace(tmp_path):
    let_simulator_allow(["flaremesh.p2p.executors.AlgorithmExecutor"], tmp_path)
    (tmp_path / "startup").mkdir()
    workspace, authorizer = Workspace(str(tmp_path)), ComponentPathAuthorizer()
    for path in ("flaremesh.p2p.executors.AlgorithmExecutor", DEFAULT_CLASS_ALLOW_LIST[0]):
        authorizer.authorize_component_config({"path": path}, workspace=workspace)
    with pytest.raises(UnsafeComponentError):
        authorizer.authorize_component_config({"path": "another.Executor"}, workspace=workspace)


def test_an_admins_client_dials_the_host_and_port_in_its_kit(built):
    admin = json.loads((built[0] / ADMIN / "startup" / "fed_admin.json").read_text())["admin"]
    assert (admin["host"], admin["port"]) == ("mesh.example.org", 8002), "fed_admin.json: host, port changed"
