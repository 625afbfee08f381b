"""How NVFlare starts the processes of participants and jobs, and what it keeps in them."""

import importlib.util
import inspect
import shlex
import sys

import pytest
from nvflare.apis.fl_constant import FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import Job
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.app_common.storages.filesystem_storage import FilesystemStorage
from nvflare.fuel.hci.client import api as admin_api
from nvflare.fuel.hci.client.file_transfer import FileTransferModule
from nvflare.job_config.api import FedJob
from nvflare.private.fed.app.client import client_train
from nvflare.private.fed.app.server import server_train
from nvflare.private.fed.client import client_executor
from nvflare.private.fed.client.fed_client import FederatedClient
from nvflare.private.fed.client.fed_client_base import FederatedClientBase
from nvflare.private.fed.server import fed_server, server_engine
from nvflare.private.fed.server.job_runner import JobRunner
from nvflare.utils.job_launcher_utils import get_client_job_args, get_server_job_args

from flaremesh.p2p.nvflare.processes import JOB_MODULES, PARTICIPANT_MODULES

ARGUMENTS = {
    JobProcessArgs.EXE_MODULE: ("-m", "nvflare.module"),
    JobProcessArgs.WORKSPACE: ("-m", "/plain/path"),
    JobProcessArgs.JOB_ID: ("-n", "run-1"),
    JobProcessArgs.SERVICE_PORT: ("--port", 8002),
    JobProcessArgs.OPTIONS: ("--set", "secure_train=true uid=bonn"),
}


@pytest.mark.parametrize("module", sorted(JOB_MODULES | PARTICIPANT_MODULES))
def test_nvflare_has_the_modules_that_its_processes_run(module):
    assert importlib.util.find_spec(module), f"NVFlare has no {module} any more"


@pytest.mark.parametrize(
    ("starter", "module"), list(zip((client_executor, server_engine), sorted(JOB_MODULES), strict=True))
)
def test_a_jobs_process_runs_the_module_by_which_it_is_found(starter, module):
    entry = f'JobProcessArgs.EXE_MODULE: ("-m", "{module}")'
    assert entry in inspect.getsource(starter), f"{starter.__name__} no longer starts {module}"


@pytest.mark.parametrize("starter", [client_executor, server_engine])
def test_a_jobs_process_has_the_run_as_an_argument_of_its_own(starter):
    entry = 'JobProcessArgs.JOB_ID: ("-n", job_id)'
    assert entry in inspect.getsource(starter).replace("str(job_id)", "job_id"), (
        f"{starter.__name__} no longer gives a job's process the run's id as `-n ID`"
    )


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


@pytest.mark.parametrize("launcher", [ClientProcessJobLauncher, ServerProcessJobLauncher])
def test_a_jobs_command_is_one_line_of_the_context_that_quotes_nothing(launcher):
    fl_ctx = FLContext()
    given = ARGUMENTS | {JobProcessArgs.WORKSPACE: ("-m", "/My Project")}
    fl_ctx.set_prop(FLContextKey.JOB_PROCESS_ARGS, given, private=True, sticky=False)
    command = launcher().get_command({}, fl_ctx)
    start = f"{sys.executable} -m nvflare.module -m /My Project "
    assert command.startswith(start), f"{launcher.__name__} now writes {command}: is our launcher needed?"
    assert command.endswith(" --set secure_train=true uid=bonn"), f"{launcher.__name__}: OPTIONS changed"


def test_a_job_launcher_splits_that_line_as_a_shell_would():
    source = inspect.getsource(ProcessJobLauncher.launch_job)
    assert "self.get_command(job_meta, fl_ctx)" in source, "launch_job no longer calls get_command"
    assert "shlex.split(command, True)" in source, "launch_job no longer splits the command with shlex"
    assert shlex.split(shlex.join(["a b", "#c"]), True) == ["a b", "#c"]


def test_the_site_is_an_object_in_its_context():
    source = inspect.getsource(client_train.main)
    entry = "set_prop(FLContextKey.SITE_OBJ, federated_client,"
    assert entry in source, "client_train no longer sets FLContextKey.SITE_OBJ"
    assert issubclass(FederatedClient, FederatedClientBase)


def test_a_job_runner_keeps_the_running_jobs_by_id(tmp_path):
    assert JobRunner(str(tmp_path)).running_jobs == {}, "JobRunner.running_jobs is no longer a dict"
    assert Job("run-1", {}, {}, {}).run_aborted is False, "Job.run_aborted changed"
    source = inspect.getsource(JobRunner)
    assert "self.running_jobs[job_id] = " in source, "JobRunner.running_jobs is no longer by id"


def test_the_server_has_a_job_runner_and_a_job_manager():
    assert SystemComponents.JOB_RUNNER == "job_runner", "SystemComponents.JOB_RUNNER changed"
    assert SystemComponents.JOB_MANAGER == "job_manager", "SystemComponents.JOB_MANAGER changed"


def test_a_jobs_failure_is_reported_with_the_run_and_a_return_code():
    assert "JobFailureMsgKey.CODE: return_code" in inspect.getsource(client_executor), (
        "client_executor no longer reports JobFailureMsgKey.CODE"
    )
    assert "topic=CellChannelTopic.REPORT_JOB_FAILURE" in inspect.getsource(fed_server), (
        "fed_server no longer listens to REPORT_JOB_FAILURE"
    )


@pytest.mark.parametrize("setting", ["heart_beat_timeout", "max_num_clients", "shutdown_period"])
def test_the_server_takes_the_settings_that_kits_give_it(setting):
    parameters = inspect.signature(fed_server.FederatedServer).parameters
    assert setting in parameters, f"FederatedServer takes no {setting} any more"


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
    source = inspect.getsource(admin_api)
    assert "\nimport traceback\n" in source, "the admin's client no longer has a module `traceback`"
    uses = {line.strip() for line in source.splitlines() if "traceback." in line}
    assert uses == {"traceback.print_exc()"}, f"the admin's client now uses {uses}"


def test_an_admins_client_says_what_it_prints_through_one_method():
    assert "self._print_hci(" in inspect.getsource(admin_api.AdminAPI.connect), (
        "AdminAPI.connect prints without _print_hci"
    )
    assert "print(" not in inspect.getsource(admin_api.AdminAPI).replace("_print_hci(", "").replace(
        "_print_hci_message(", ""
    ), "AdminAPI prints without _print_hci"


def test_downloads_go_to_the_folder_of_the_file_transfer_module(tmp_path):
    module = FileTransferModule(str(tmp_path), str(tmp_path))
    assert module.download_dir == str(tmp_path), "FileTransferModule.download_dir changed"
    module.download_dir = "/elsewhere"
    assert module._tx_path("42", "job").startswith("/elsewhere/"), (
        "FileTransferModule no longer looks up download_dir when it downloads"
    )
