"""How NVFlare starts the processes of participants and jobs, and what it keeps in them."""

import ast
import importlib.util
import inspect
import json
import shlex
import sys
import textwrap
from contextlib import suppress
from types import SimpleNamespace

import pytest
from nvflare.apis.fl_constant import ConfigVarName, FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.wf_comm_server import WFCommServer
from nvflare.apis.job_def import Job
from nvflare.apis.job_launcher_spec import JobProcessArgs, JobProcessEnv
from nvflare.apis.workspace import Workspace
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.app_common.job_schedulers.job_scheduler import DefaultJobScheduler
from nvflare.app_common.storages.filesystem_storage import FilesystemStorage
from nvflare.fuel.common.excepts import ConfigError
from nvflare.fuel.f3.cellnet import credential_manager
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.f3.mpm import MainProcessMonitor
from nvflare.fuel.flare_api.api_spec import NoConnection
from nvflare.fuel.hci.client import api as admin_api
from nvflare.fuel.hci.client.file_transfer import FileTransferModule
from nvflare.fuel.hci.file_transfer_defs import PULL_FOLDER_FQN, PUSH_FOLDER_FQN
from nvflare.fuel.hci.reg import CommandSpec
from nvflare.job_config.api import FedJob
from nvflare.private.defs import TrainingTopic
from nvflare.private.fed.app import fl_conf
from nvflare.private.fed.app.client import client_train, worker_process
from nvflare.private.fed.app.deployer import server_deployer
from nvflare.private.fed.app.deployer.base_client_deployer import BaseClientDeployer
from nvflare.private.fed.app.server import runner_process, server_train
from nvflare.private.fed.client import client_engine, client_executor
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.private.fed.client.client_runner import ClientRunner
from nvflare.private.fed.client.communicator import Communicator
from nvflare.private.fed.client.fed_client import FederatedClient
from nvflare.private.fed.client.fed_client_base import FederatedClientBase
from nvflare.private.fed.server import fed_server, server_engine
from nvflare.private.fed.server.client_manager import ClientManager
from nvflare.private.fed.server.job_runner import JobRunner
from nvflare.private.fed.server.server_json_config import ServerJsonConfigurator
from nvflare.utils.job_launcher_utils import get_client_job_args, get_server_job_args

from flaremesh.issuing import Authority, key_pem, pem
from flaremesh.p2p.nvflare.jobs import SERVER_PARAMETERS, SITE_PARAMETERS
from flaremesh.p2p.nvflare.jobs import Job as JobOfFlaremesh
from flaremesh.p2p.nvflare.processes import JOB_MODULES, PARTICIPANT_MODULES

ARGUMENTS = {
    JobProcessArgs.EXE_MODULE: ("-m", "nvflare.module"),
    JobProcessArgs.WORKSPACE: ("-m", "/plain/path"),
    JobProcessArgs.JOB_ID: ("-n", "run-1"),
    JobProcessArgs.SERVICE_PORT: ("--port", 8002),
    JobProcessArgs.OPTIONS: ("--set", "secure_train=true uid=bonn"),
}


def tree(source):
    return ast.parse(textwrap.dedent(inspect.getsource(source)))


@pytest.mark.parametrize("module", sorted(JOB_MODULES | PARTICIPANT_MODULES))
def test_nvflare_has_the_modules_that_its_processes_run(module):
    assert importlib.util.find_spec(module), f"NVFlare has no {module} any more"


@pytest.mark.parametrize(
    ("starter", "module"), list(zip((client_executor, server_engine), sorted(JOB_MODULES), strict=True))
)
def test_a_jobs_process_runs_the_module_by_which_it_is_found(starter, module):
    texts = {node.value for node in ast.walk(tree(starter)) if isinstance(node, ast.Constant)}
    assert module in texts, f"{starter.__name__} no longer starts {module}"


@pytest.mark.parametrize(
    ("module", "given"),
    [
        (worker_process, "-m /work -w startup -c bonn -g host:1 -scheme grpc -p url -s fed_client.json"),
        (runner_process, "-m /work -r app -u url --host host --port 1 -p url -s fed_server.json"),
    ],
)
def test_a_jobs_process_cannot_do_without_the_run_as_an_argument_of_its_own(monkeypatch, module, given):
    def run_id(*arguments):
        for name in ("AUTH_TOKEN", "TOKEN_SIGNATURE", "SSID"):
            monkeypatch.setenv(getattr(JobProcessEnv, name), "secret")
        monkeypatch.setattr(sys, "argv", ["python", *given.split(), *arguments])
        with suppress(SystemExit):
            return module.parse_arguments().job_id

    assert run_id("-n", "run-1") == "run-1", f"{module.__name__}: -n ID is no longer the run's id"
    assert run_id() is None, f"{module.__name__} can do without the run's id"


@pytest.mark.parametrize(
    ("module", "config", "option"),
    [(client_train, "fed_client.json", "fed_client"), (server_train, "fed_server.json", "fed_server")],
)
def test_a_participants_process_takes_the_arguments_that_flaremesh_gives_it(
    monkeypatch, module, config, option
):
    given = ["secure_train=true", "uid=bonn", "org=hospitals", "config_folder=config"]
    monkeypatch.setattr(sys, "argv", ["python", "-m", "/work", "-s", config, "--set", *given])
    taken = module.parse_arguments()
    assert taken.workspace == "/work", f"{module.__name__}: -m is no longer the workspace"
    assert getattr(taken, option) == config, f"{module.__name__}: -s is no longer the configuration"
    assert taken.set == given, f"{module.__name__}: --set no longer takes words KEY=VALUE"


def test_a_job_is_started_with_these_arguments_and_no_others():
    client = "EXE_MODULE WORKSPACE STARTUP_DIR JOB_ID CLIENT_NAME PARENT_URL PARENT_CONN_SEC TARGET SCHEME"
    server = "EXE_MODULE WORKSPACE STARTUP_CONFIG_FILE APP_ROOT JOB_ID PARENT_URL PARENT_CONN_SEC ROOT_URL"
    names = [f"{client} STARTUP_CONFIG_FILE OPTIONS", f"{server} SERVICE_HOST SERVICE_PORT OPTIONS"]
    expected = [[getattr(JobProcessArgs, name) for name in line.split()] for line in names]
    assert get_client_job_args() == expected[0], "get_client_job_args changed"
    assert get_server_job_args() == expected[1], "get_server_job_args changed"


def test_a_site_counts_a_job_as_running_before_its_process_starts_and_until_that_has_ended():
    start = inspect.getsource(client_executor.JobExecutor.start_app)
    assert start.index("self.run_processes[job_id] =") < start.index("launch_job("), "start_app changed"
    end = inspect.getsource(client_executor.JobExecutor._wait_child_process_finish)
    assert end.index("job_handle.wait()") < end.index("self.run_processes.pop(job_id"), "its end changed"


@pytest.mark.parametrize("launcher", [ClientProcessJobLauncher, ServerProcessJobLauncher])
def test_a_jobs_command_is_one_line_of_the_context_that_quotes_nothing(launcher):
    fl_ctx = FLContext()
    given = ARGUMENTS | {JobProcessArgs.WORKSPACE: ("-m", "/My Project")}
    fl_ctx.set_prop(FLContextKey.JOB_PROCESS_ARGS, given, private=True, sticky=False)
    command = launcher().get_command({}, fl_ctx)
    start = f"{sys.executable} -m nvflare.module -m /My Project "
    assert command.startswith(start), f"{launcher.__name__} now writes {command}: is our launcher needed?"
    assert command.endswith(" --set secure_train=true uid=bonn"), f"{launcher.__name__}: OPTIONS changed"


@pytest.mark.parametrize("launcher", [ClientProcessJobLauncher, ServerProcessJobLauncher])
def test_a_job_launcher_splits_that_line_as_a_shell_would(launcher, tmp_path):
    words, heard = ["a b", "#c", "it's", ""], tmp_path / "heard"
    write = "import json, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps(sys.argv[2:]))"

    class Launcher(launcher):
        def get_command(self, job_meta, fl_ctx):
            return shlex.join([sys.executable, "-c", write, str(heard), *words])

    for part in ("startup", "local"):
        (tmp_path / part).mkdir()
    fl_ctx = FLContext()
    fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, Workspace(str(tmp_path)), private=True)
    Launcher().launch_job({"job_id": "run-1"}, fl_ctx).wait()
    taken = json.loads(heard.read_text()) if heard.exists() else None
    assert taken == words, f"{launcher.__name__} no longer splits its command as a shell would"


@pytest.mark.parametrize(("owner", "files"), [("client", "PRIVATE_KEY CERT"), ("server", "PRIVATE_KEY")])
def test_a_process_asks_its_workspace_where_its_key_and_its_certificate_are(owner, files):
    asked = {ast.unparse(node) for node in ast.walk(tree(fl_conf)) if isinstance(node, ast.Assign)}
    for file in files.split():
        place = f"{owner}[SSLConstants.{file}]"
        asks = f"{place} = self.workspace.get_file_path_in_startup({place})"
        assert asks in asked, f"{place} comes from elsewhere"


def test_a_cell_does_without_a_cipher_until_a_message_asks_for_one(monkeypatch, tmp_path):
    monkeypatch.setattr(credential_manager, "SimpleCellCipher", lambda *_: None)
    authority = Authority.new("mesh", 1)
    (tmp_path / "any.crt").write_bytes(pem(authority.certificate))
    (tmp_path / "any.key").write_bytes(key_pem(authority.key))
    files = {DriverParams.CLIENT_KEY: "any.key"} | dict.fromkeys(
        (DriverParams.CA_CERT, DriverParams.CLIENT_CERT), "any.crt"
    )
    endpoint = Endpoint("bonn", conn_props={name: str(tmp_path / file) for name, file in files.items()})
    manager = credential_manager.CredentialManager(endpoint)
    with pytest.raises(RuntimeError, match="Secure message not supported"):
        manager.encrypt(b"", b"")


@pytest.mark.parametrize("module", [worker_process, runner_process])
def test_a_jobs_process_puts_the_jobs_folder_on_pythons_path_itself(module):
    called = {ast.unparse(node) for node in ast.walk(tree(module.main)) if isinstance(node, ast.Call)}
    assert "refresh_custom_dir_import_path(workspace.get_app_custom_dir(args.job_id))" in called


def test_a_jobs_process_ends_as_the_monitor_of_its_main_function_does():
    for module in (worker_process, runner_process):
        calls = [ast.unparse(node.func) for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
        assert "mpm.run" in calls, f"{module.__name__} no longer calls it"
        assert module.mpm is MainProcessMonitor


def test_a_server_asks_at_a_runs_end_for_downloads_of_tensors_which_one_module_lists():
    asks = inspect.getsource(WFCommServer._cleanup_inflight_tensor_downloads)
    module, function = "nvflare.app_opt.pt.tensor_downloader", "cleanup_active_disk_tensor_downloads"
    assert f"from {module} import {function}" in asks
    assert "self._cleanup_inflight_tensor_downloads(fl_ctx)" in inspect.getsource(WFCommServer.finalize_run)


def test_a_participant_alone_is_told_that_the_system_boots():
    for module in (client_train, server_deployer):
        fires = "fire_event(EventType.SYSTEM_BOOTSTRAP, fl_ctx)" in inspect.getsource(module)
        assert fires, f"{module.__name__} no longer fires it"
    for module in (worker_process, runner_process):
        assert "SYSTEM_BOOTSTRAP" not in inspect.getsource(module), f"{module.__name__} fires it, too"


def test_the_site_is_an_object_in_its_context():
    (value,) = [
        node.args[1].id
        for node in ast.walk(tree(client_train))
        if isinstance(node, ast.Call)
        if any(isinstance(part, ast.Attribute) and part.attr == "SITE_OBJ" for part in node.args)
    ]
    assert value == "federated_client", f"FLContextKey.SITE_OBJ is now {value}"
    assert issubclass(FederatedClient, FederatedClientBase)


def test_a_job_runner_keeps_the_running_jobs_by_id(tmp_path):
    runner, job = JobRunner(str(tmp_path)), Job("run-1", {}, {}, {})
    assert runner.running_jobs == {}, "JobRunner.running_jobs is no longer a dict"
    assert job.run_aborted is False, "Job.run_aborted changed"
    runner.scheduler = DefaultJobScheduler()
    runner.running_jobs["run-1"] = job
    runner.remove_running_job("run-1")
    assert runner.running_jobs == {}, "JobRunner.running_jobs is no longer by id"


def test_the_server_has_a_job_runner_and_a_job_manager():
    assert SystemComponents.JOB_RUNNER == "job_runner", "SystemComponents.JOB_RUNNER changed"
    assert SystemComponents.JOB_MANAGER == "job_manager", "SystemComponents.JOB_MANAGER changed"


@pytest.mark.parametrize("module", [client_executor, fed_server])
def test_a_jobs_failure_is_reported_with_the_run_and_a_return_code(module):
    gone = {"REPORT_JOB_FAILURE", "JOB_ID", "CODE"} - {
        node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)
    }
    assert not gone, f"{module.__name__} knows no {', '.join(sorted(gone))} of a failed job any more"


def test_a_site_registers_what_its_process_answers_once_the_agent_is_up():
    source = inspect.getsource(client_train.main)
    bootstrap, register = "EventType.SYSTEM_BOOTSTRAP", "create_admin_agent(deployer.req_processors"
    assert 0 < source.index(bootstrap) < source.index(register), "client_train.main registers it earlier"
    deployer = BaseClientDeployer()
    assert deployer.req_processors is ClientRequestProcessors.request_processors, "it is another list now"
    topics = [processor.get_topics() for processor in ClientRequestProcessors.request_processors]
    for topic in (TrainingTopic.DEPLOY, TrainingTopic.START_JOB, TrainingTopic.DELETE_RUN):
        assert [topic] in topics, f"{topic} shares its processor now"


def test_a_site_asks_its_component_to_take_in_a_job():
    assert SystemComponents.APP_DEPLOYER == "app_deployer", "SystemComponents.APP_DEPLOYER changed"
    source = inspect.getsource(client_engine.ClientEngine.deploy_app)
    assert "get_component(SystemComponents.APP_DEPLOYER)" in source, "ClientEngine.deploy_app changed"


def test_a_refusal_of_a_site_is_in_the_jobs_details():
    source = inspect.getsource(client_engine.ClientEngine.deploy_app)
    assert 'f"{ERROR_MSG_PREFIX}: {err}"' in source, "ClientEngine.deploy_app words a refusal in another way"
    source = inspect.getsource(JobRunner._deploy_job)
    assert 'f"{client_name}: {reply.body}"' in source, "JobRunner notes a refusal in another way"
    job = JobOfFlaremesh("mine", "FINISHED:FAILED_TO_RUN", ("server: OK", "bonn: NVFLARE_ERROR: no"), None)
    assert job.refusals == {"bonn": "no"}, "ERROR_MSG_PREFIX changed"


def test_a_site_ends_the_jobs_that_a_server_which_has_started_again_does_not_know():
    source = inspect.getsource(fed_server.FederatedServer._sync_client_jobs)
    assert "client_jobs.difference(server_jobs)" in source, "FederatedServer._sync_client_jobs changed"
    source = inspect.getsource(Communicator.send_heartbeat)
    assert "CellMessageHeaderKeys.ABORT_JOBS" in source, "a heartbeat's answer ends no jobs any more"


def test_a_site_that_starts_again_takes_part_in_no_job_that_runs():
    source = inspect.getsource(fed_server.FederatedServer._sync_client_jobs)
    assert "participating_clients.get(client_token" in source, "participants are found by another key now"
    source = inspect.getsource(fed_server.FederatedServer.register_client)
    authenticated, told = "self.client_manager.authenticate(", "EventType.CLIENT_REGISTER_PROCESSED"
    assert 0 < source.index(authenticated) < source.index(told), "register_client tells of logins earlier"


def test_a_job_is_told_of_a_silent_site_through_the_method_that_flaremesh_replaces():
    source = inspect.getsource(fed_server.FederatedServer.notify_dead_client)
    assert '_notify_dead_job(client, job_id, "client dead")' in source, "silence has another name now"
    source = inspect.getsource(fed_server.FederatedServer._notify_dead_job)
    assert "self.engine.notify_dead_job(job_id, client.name, reason)" in source, "a job is told otherwise now"


def test_a_silent_site_that_is_heard_again_keeps_its_token():
    source = inspect.getsource(ClientManager.heartbeat)
    assert "client = Client(client_name, token)" in source, "ClientManager.heartbeat takes nobody back now"


@pytest.mark.parametrize(
    "setting", ["check_engine_frequency", "heart_beat_timeout", "max_num_clients", "shutdown_period"]
)
def test_the_server_takes_the_settings_that_kits_give_it(setting):
    parameters = inspect.signature(fed_server.FederatedServer).parameters
    assert setting in parameters, f"FederatedServer takes no {setting} any more"


def test_the_server_takes_the_settings_that_jobs_give_it(tmp_path):
    (tmp_path / "startup").mkdir()
    (tmp_path / "local").mkdir()
    config = tmp_path / "config_fed_server.json"
    config.write_text(json.dumps({"format_version": 2, "workflows": []} | SERVER_PARAMETERS))
    job = SimpleNamespace(job_id="run-1", workspace=str(tmp_path), set=[])
    server = ServerJsonConfigurator(Workspace(str(tmp_path)), str(config), job, str(tmp_path))
    with pytest.raises(ConfigError, match="workflows"):  # the rest has been read
        server.configure()
    assert server.task_request_interval == 0.1, "a job's task_request_interval changed"
    assert ConfigVarName.DEAD_CLIENT_GRACE_PERIOD in SERVER_PARAMETERS, "dead_client_grace_period changed"


def test_a_site_takes_the_settings_that_jobs_give_it():
    assert set(SITE_PARAMETERS) == {ConfigVarName.SUBMIT_TASK_RESULT_TIMEOUT}, "its name changed"
    source = inspect.getsource(ClientRunner)
    use = "send_task_result(result, fl_ctx, timeout=self.submit_task_result_timeout)"
    assert use in source, "ClientRunner bounds the sending of a result in another way"


def test_a_file_storage_needs_an_absolute_root(tmp_path):
    with pytest.raises(ValueError, match="absolute"):
        FilesystemStorage("relative")
    FilesystemStorage(str(tmp_path))


def test_a_fed_job_calls_what_flaremesh_puts_in_the_place_of_its_methods(tmp_path):
    job, called = FedJob(name="pair"), []
    job.job.generate_job_config = lambda *args: called.append("generate_job_config")
    job.job.simulator_run = lambda *args, **kwargs: called.append("simulator_run")
    job.export_job(str(tmp_path))
    job.simulator_run(str(tmp_path), n_clients=1)
    assert called == ["generate_job_config", "simulator_run"], "FedJob no longer calls its job's methods"
    assert job.job.app_packages == [], "FedJobConfig.app_packages is no longer an empty list"


def test_the_default_list_of_allowed_classes_is_of_texts():
    assert all(isinstance(path, str) for path in DEFAULT_CLASS_ALLOW_LIST)
    assert DEFAULT_CLASS_ALLOW_LIST, "DEFAULT_CLASS_ALLOW_LIST is empty"


def test_an_admins_client_prints_tracebacks_only_through_the_module_that_flaremesh_replaces():
    assert admin_api.traceback.print_exc, "the admin's client no longer has a module `traceback`"
    uses = {
        node.attr
        for node in ast.walk(tree(admin_api))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "traceback"
    }
    assert uses == {"print_exc"}, f"the admin's client now uses {', '.join(sorted(uses))} of traceback"


def test_an_admins_client_says_what_it_prints_through_one_method():
    calls = {
        getattr(node.func, "id", getattr(node.func, "attr", ""))
        for method in tree(admin_api.AdminAPI).body[0].body
        if getattr(method, "name", "") != "_print_hci"
        for node in ast.walk(method)
        if isinstance(node, ast.Call)
    }
    assert "_print_hci" in calls, "AdminAPI prints without _print_hci"
    assert not {"print", "_print_hci_message"} & calls, "AdminAPI prints without _print_hci"


def test_a_server_that_cannot_be_reached_is_a_failed_connection():
    assert issubclass(NoConnection, ConnectionError), "Session.try_connect raises another error"


def test_a_server_maps_its_commands_to_uploads_and_to_the_pull_that_flaremesh_replaces(tmp_path):
    module = FileTransferModule(str(tmp_path), str(tmp_path))
    assert set(module.cmd_handlers) == {PULL_FOLDER_FQN, PUSH_FOLDER_FQN}, (
        "a server can have an admin's client do something else now: see flaremesh.p2p.nvflare.downloads"
    )
    called = []
    module.cmd_handlers[PULL_FOLDER_FQN] = called.append
    pull = CommandSpec("list_jobs", "", "", None, client_cmd=PULL_FOLDER_FQN)
    (mapped,) = module.generate_module_spec(pull).cmd_specs
    mapped.handler_func("pulled")
    assert called == ["pulled"], "FileTransferModule no longer looks up cmd_handlers for a command"
