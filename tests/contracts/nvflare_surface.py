"""What flaremesh uses of NVFlare, by name: the documented modules, and the contract for everything else."""

import ast
import functools
import importlib
import inspect
import textwrap
from pathlib import Path
from typing import Any

import flaremesh

DOCUMENTED = frozenset(
    f"nvflare.{module}"
    for module in (
        "apis.client",
        "apis.controller_spec",
        "apis.dxo",
        "apis.event_type",
        "apis.executor",
        "apis.fl_component",
        "apis.fl_constant",
        "apis.fl_context",
        "apis.fl_exception",
        "apis.impl.controller",
        "apis.job_def",
        "apis.shareable",
        "apis.signal",
        "fuel.flare_api.api_spec",
        "fuel.flare_api.flare_api",
        "lighter.spec",
    )
)
"""Modules of the documented API: whatever flaremesh imports of them, it may use as documented."""

CALLS = {
    # messages between cells
    "nvflare.fuel.f3.cellnet.core_cell.CoreCell.add_incoming_request_filter": "self channel topic cb",
    "nvflare.fuel.f3.cellnet.core_cell.CoreCell.register_request_cb": "self channel topic cb",
    "nvflare.fuel.f3.cellnet.core_cell.CoreCell.send_request": (
        "self channel topic target request timeout= optional="
    ),
    "nvflare.fuel.f3.cellnet.core_cell.CoreCell.fire_and_forget": (
        "self channel topic targets message optional="
    ),
    "nvflare.fuel.f3.cellnet.fqcn.FQCN.join": "path",
    "nvflare.fuel.f3.cellnet.utils.make_reply": "rc body=",
    "nvflare.fuel.f3.message.Message": "payload=",
    "nvflare.fuel.f3.message.Message.get_header": "self key",
    "nvflare.apis.client.Client.get_fqcn": "self",
    # the processes of a site and of the server
    "nvflare.private.fed.client.client_engine.ClientEngine.get_all_job_ids": "self",
    "nvflare.private.fed.client.client_engine.ClientEngine.abort_app": "self job_id",
    "nvflare.private.fed.client.client_engine.ClientEngine.shutdown": "self",
    "nvflare.private.fed.client.client_run_manager.ClientRunManager.get_cell": "self",
    "nvflare.private.fed.client.client_run_manager.ClientRunManager.get_client_from_name": "self client_name",
    "nvflare.private.fed.server.server_engine.ServerEngine.get_cell": "self",
    "nvflare.private.fed.server.server_engine.ServerEngine.get_client_from_name": "self client_name",
    "nvflare.private.fed.server.server_engine.ServerEngine.get_clients": "self",
    "nvflare.private.fed.server.server_engine.ServerEngine.get_component": "self component_id",
    "nvflare.private.fed.server.server_engine.ServerEngine.get_workspace": "self",
    "nvflare.private.fed.server.server_engine.ServerEngine.new_context": "self",
    "nvflare.private.fed.server.server_engine.ServerEngine.register_app_command": "self topic cmd_func",
    "nvflare.private.fed.server.server_engine.ServerEngine.shutdown_server": "self",
    "nvflare.private.fed.server.job_runner.JobRunner.stop_run": "self job_id fl_ctx",
    "nvflare.private.fed.server.job_runner.JobRunner.update_unfinished_jobs": "self fl_ctx",
    "nvflare.apis.impl.job_def_manager.SimpleJobDefManager.update_meta": "self jid meta fl_ctx",
    # the processes of jobs
    "nvflare.app_common.job_launcher.client_process_launcher.ClientProcessJobLauncher.get_command": (
        "self job_meta fl_ctx"
    ),
    "nvflare.app_common.job_launcher.server_process_launcher.ServerProcessJobLauncher.get_command": (
        "self job_meta fl_ctx"
    ),
    "nvflare.utils.job_launcher_utils.get_client_job_args": "",
    "nvflare.utils.job_launcher_utils.get_server_job_args": "",
    "nvflare.app_common.storages.filesystem_storage.FilesystemStorage": "root_dir",
    "nvflare.app_common.widgets.component_path_authorizer.ComponentPathAuthorizer": "",
    "nvflare.app_common.widgets.component_path_authorizer."
    "ComponentPathAuthorizer.authorize_component_config": "self component_config fl_ctx=",
    # jobs built in Python
    "nvflare.fuel.utils.class_utils.get_component_init_parameters": "component",
    "nvflare.job_config.fed_job_config.FedJobConfig.generate_job_config": "self job_root",
    "nvflare.job_config.fed_job_config.FedJobConfig.set_app_packages": "self app_packages",
    "nvflare.job_config.fed_job_config.FedJobConfig.simulator_run": "self workspace",
    # an admin's session
    "nvflare.fuel.flare_api.flare_api.Session": "username startup_path",
    "nvflare.fuel.flare_api.flare_api.Session.try_connect": "self timeout",
    "nvflare.fuel.flare_api.flare_api.Session.do_app_command": "self job_id topic cmd_data",
    "nvflare.fuel.hci.client.api.AdminAPI._print_hci": "self msg",
    "nvflare.fuel.hci.client.file_transfer.FileTransferModule": "upload_dir download_dir",
    # provisioning
    "nvflare.lighter.ctx.ProvisionContext.get_local_dir": "self entity",
    "nvflare.lighter.ctx.ProvisionContext.get_result_location": "self",
    "nvflare.lighter.entity.Participant.get_default_host": "self",
    "nvflare.lighter.entity.Participant.get_prop": "self key",
    "nvflare.lighter.entity.Project": "name= description= props=",
    "nvflare.lighter.entity.Project.add_admin": "self name org props",
    "nvflare.lighter.entity.Project.add_client": "self name org props",
    "nvflare.lighter.entity.Project.set_server": "self name org props",
    "nvflare.lighter.entity.Project.get_all_participants": "self",
    "nvflare.lighter.entity.Project.get_clients": "self",
    "nvflare.lighter.entity.Project.get_server": "self",
    "nvflare.lighter.impl.cert.CertBuilder": "root_valid_days=",
    "nvflare.lighter.impl.static_file.StaticFileBuilder": "config_folder= scheme=",
    "nvflare.lighter.impl.workspace.WorkspaceBuilder": "",
    "nvflare.lighter.provisioner.Provisioner": "root_dir builders",
    "nvflare.lighter.provisioner.Provisioner.provision": "self project logger=",
    "nvflare.lighter.utils.build_subject_alt_names": (
        "server_default_host server_additional_hosts fallback_subject_name="
    ),
    "nvflare.lighter.utils.x509_name": "cn_name org_name role",
}
"""What flaremesh calls or overrides, and how: by position ``name``, by keyword ``name=``."""

NAMES = {
    "nvflare.apis.job_launcher_spec.JobProcessArgs": "OPTIONS",
    "nvflare.apis.job_launcher_spec.JobReturnCode": "SUCCESS",
    "nvflare.app_common.default_component_policy": "DEFAULT_CLASS_ALLOW_LIST",
    "nvflare.fuel.common.excepts": "ConfigError",
    "nvflare.fuel.f3.cellnet.defs.MessageHeaderKey": "CHANNEL ORIGIN RETURN_CODE TOPIC",
    "nvflare.fuel.f3.cellnet.defs.ReturnCode": "OK",
    "nvflare.fuel.f3.cellnet.fqcn.FQCN": "ROOT_SERVER",
    "nvflare.lighter.constants.CtxKey": "BUILD_ERROR ERRORS ROOT_CERT ROOT_PRI_KEY",
    "nvflare.lighter.constants.ParticipantType": "ADMIN SERVER",
    "nvflare.lighter.constants.PropKey": (
        "ADMIN_PORT ALLOW_LOG_STREAMING CAPACITY DEFAULT_HOST FED_LEARN_PORT HOST_NAMES NUM_GPUS ROLE"
    ),
    "nvflare.lighter.ctx": "ProvisionContext",
    "nvflare.private.defs.CellChannel": "SERVER_MAIN",
    "nvflare.private.defs.CellChannelTopic": "REPORT_JOB_FAILURE",
    "nvflare.private.defs.CellMessageHeaderKeys": "CLIENT_NAME",
    "nvflare.private.defs.JobFailureMsgKey": "CODE JOB_ID",
    "nvflare.private.fed.client.client_status.ClientStatus": "STOPPED",
    "nvflare.private.fed.server.server_status.ServerStatus": "SHUTDOWN",
    "nvflare.private.fed.simulator.simulator_const.SimulatorConstants": "JOB_NAME",
    "nvflare.security.security": "COMMAND_CATEGORIES",
    "nvflare.fuel.hci.client": "api",
}
"""Names that flaremesh reads, by module or class."""

ATTRIBUTES = {
    "nvflare.fuel.f3.cellnet.cell.Cell": "core_cell",
    "nvflare.fuel.f3.cellnet.core_cell.CoreCell": "agents sent_msg_size_pool received_msg_size_pool",
    "nvflare.fuel.flare_api.flare_api.Session": "api",
    "nvflare.fuel.hci.client.api.AdminAPI": "cmd_modules",
    "nvflare.fuel.hci.client.file_transfer.FileTransferModule": "download_dir",
    "nvflare.job_config.fed_job_config.FedJobConfig": "app_packages",
    "nvflare.job_config.api.FedJob": "job",
    "nvflare.private.fed.client.fed_client.FederatedClient": "cell client_name status token",
    "nvflare.private.fed.server.fed_server.FederatedServer": "status",
    "nvflare.private.fed.server.job_runner.JobRunner": "running_jobs",
    "nvflare.private.fed.server.server_engine.ServerEngine": "server",
    "nvflare.apis.job_def.Job": "run_aborted",
    "nvflare.lighter.entity.Participant": "name org subject type",
}
"""Attributes of instances that flaremesh reads or sets, by the class that assigns them."""


def named(path: str) -> Any:
    """The module, class, function or constant of a dotted path; says which part is missing."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not (module + ".").startswith(error.name + "."):
                raise
            continue
        for name in parts[end:]:
            assert hasattr(found, name), f"NVFlare has no {path} any more: {found!r} lacks {name}"
            found = getattr(found, name)
        return found
    raise AssertionError(f"NVFlare has no {path} any more")


def assigned(kind: type) -> set[str]:
    """Names of the attributes that methods of a class, or of those it inherits from, assign to self."""
    return {
        node.attr
        for base in kind.__mro__
        if base.__module__.startswith("nvflare")
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base))))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if isinstance(node.value, ast.Name) and node.value.id == "self"
    }


@functools.cache
def imports() -> dict[tuple[str, str], str]:
    """What flaremesh imports of NVFlare, as (module, name), and a file that does."""
    source = Path(flaremesh.__file__).parent
    found = {}
    for path in sorted(source.rglob("*.py")):
        where = str(path.relative_to(source))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [(node.module or "", alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [(alias.name, "") for alias in node.names]
            else:
                continue
            found |= {name: where for name in names if name[0].split(".")[0] == "nvflare"}
    return found
