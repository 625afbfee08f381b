"""What flaremesh uses of NVFlare, by name: the documented modules, and the contract for everything else."""

import importlib
from typing import Any

DOCUMENTED = frozenset(
    f"nvflare.{module}"
    for module in (
        "apis.app_deployer_spec",
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
        "apis.workspace",
        "fuel.flare_api.api_spec",
        "fuel.flare_api.flare_api",
        "lighter.spec",
    )
)
"""Modules of the documented API: whatever flaremesh imports of them, it may use as documented."""

COMPONENT_API = frozenset(module for module in DOCUMENTED if module.startswith("nvflare.apis."))
"""Those of them that are for components: all that may be imported outside of flaremesh.p2p.nvflare."""

PUBLIC_KEYS = frozenset(
    f"nvflare.apis.fl_constant.{key}"
    for key in (
        "FLContextKey.CURRENT_JOB_ID",
        "FLContextKey.DISCONNECTED_CLIENT_NAME",
        "FLContextKey.EVENT_DATA",
        "FLContextKey.WORKSPACE_OBJECT",
        "ReservedKey.IDENTITY_NAME",
    )
)
"""What components may read of a context: values that NVFlare documents, and none of its inner objects."""

FILES = frozenset(
    {
        "authorization.json",
        "client.crt",
        "client.key",
        "fed_admin.json",
        "fed_client.json",
        "fed_server.json",
        "log_config.json",
        "resources.json",
        "rootCA.pem",
        "server.crt",
        "server.key",
    }
)
"""Files that NVFlare writes into kits and beside them, and that flaremesh reads or changes."""

COMPONENT_CALLS = {
    # what is inherited from NVFlare's base classes
    "nvflare.apis.controller_spec.ControllerSpec.control_flow": "self abort_signal fl_ctx",
    "nvflare.apis.controller_spec.ControllerSpec.process_result_of_unknown_task": (
        "self client task_name client_task_id result fl_ctx"
    ),
    "nvflare.apis.controller_spec.ControllerSpec.start_controller": "self fl_ctx",
    "nvflare.apis.controller_spec.ControllerSpec.stop_controller": "self fl_ctx",
    "nvflare.apis.executor.Executor.add_to_fed_job": "self job ctx",
    "nvflare.apis.executor.Executor.execute": "self task_name shareable fl_ctx abort_signal",
    "nvflare.apis.fl_component.FLComponent.handle_event": "self event_type fl_ctx",
    "nvflare.apis.fl_component.FLComponent.log_error": "self fl_ctx msg",
    "nvflare.apis.fl_component.FLComponent.log_exception": "self fl_ctx msg",
    "nvflare.apis.fl_component.FLComponent.log_info": "self fl_ctx msg",
    "nvflare.apis.fl_component.FLComponent.log_warning": "self fl_ctx msg",
    "nvflare.apis.fl_component.FLComponent.system_panic": "self reason fl_ctx",
    "nvflare.apis.impl.controller.Controller": "task_check_period",
    "nvflare.apis.impl.controller.Controller.add_to_fed_job": "self job ctx",
    "nvflare.apis.impl.controller.Controller.broadcast": "self task fl_ctx targets= min_responses=",
    "nvflare.apis.impl.controller.Controller.send": "self task fl_ctx targets=",
    # what NVFlare gives them
    "nvflare.apis.controller_spec.Task": "name= data= result_received_cb=",
    "nvflare.apis.dxo.DXO": "data_kind data=",
    "nvflare.apis.dxo.DXO.to_shareable": "self",
    "nvflare.apis.dxo.from_shareable": "s",
    "nvflare.apis.fl_context.FLContext.get_identity_name": "self",
    "nvflare.apis.fl_context.FLContext.get_job_id": "self",
    "nvflare.apis.fl_context.FLContext.get_peer_context": "self",
    "nvflare.apis.fl_context.FLContext.get_prop": "self key default",
    "nvflare.apis.fl_context.FLContext.get_workspace": "self",
    "nvflare.apis.fl_context.FLContext.put": "self key value private= sticky=",
    "nvflare.apis.fl_context.FLContext.set_peer_context": "self ctx",
    "nvflare.apis.shareable.Shareable.get_header": "self key",
    "nvflare.apis.shareable.Shareable.get_peer_prop": "self key default",
    "nvflare.apis.shareable.Shareable.get_return_code": "self",
    "nvflare.apis.shareable.Shareable.set_peer_props": "self props",
    "nvflare.apis.shareable.make_reply": "rc headers=",
    "nvflare.apis.workspace.Workspace.get_app_dir": "self job_id",
    "nvflare.apis.workspace.Workspace.get_root_dir": "self",
    "nvflare.apis.workspace.Workspace.get_run_dir": "self job_id",
    "nvflare.apis.workspace.Workspace.get_startup_kit_dir": "self",
    "nvflare.job_config.api.FedJob.add_params": "self args ctx",
}
"""What controllers, executors and agents inherit, override or call: see CALLS for how it is written."""

CALLS = {
    # what a context leads to
    "nvflare.apis.fl_context.FLContext.get_engine": "self",
    # messages between cells
    "nvflare.fuel.f3.cellnet.core_cell.CoreCell.add_incoming_request_filter": "self channel topic cb",
    "nvflare.fuel.f3.cellnet.core_cell.CoreCell.get_fqcn": "self",
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
    "nvflare.fuel.f3.mpm.MainProcessMonitor.run": "main_func shutdown_grace_time=",
    "nvflare.apis.impl.wf_comm_server.WFCommServer._cleanup_inflight_tensor_downloads": "self fl_ctx",
    "nvflare.apis.client.Client.get_fqcn": "self",
    "nvflare.private.fed.client.client_run_manager.ClientRunManager.register_aux_message_handler": (
        "self topic message_handle_func"
    ),
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
    "nvflare.private.fed.server.server_engine.ServerEngine.notify_dead_job": "self job_id client_name reason",
    "nvflare.private.fed.server.server_engine.ServerEngine.register_app_command": "self topic cmd_func",
    "nvflare.private.fed.server.server_engine.ServerEngine.shutdown_server": "self",
    "nvflare.private.fed.server.job_runner.JobRunner.stop_run": "self job_id fl_ctx",
    "nvflare.private.fed.server.job_runner.JobRunner.update_unfinished_jobs": "self fl_ctx",
    "nvflare.fuel.hci.server.reg.CommandFilter.pre_command": "self conn args",
    "nvflare.fuel.hci.server.reg.ServerCommandRegister.add_filter": "self cmd_filter",
    "nvflare.fuel.hci.conn.Connection.get_prop": "self key default",
    "nvflare.apis.impl.job_def_manager.SimpleJobDefManager.clone": "self from_jid meta fl_ctx",
    "nvflare.apis.impl.job_def_manager.SimpleJobDefManager.get_job": "self jid fl_ctx",
    "nvflare.apis.impl.job_def_manager.SimpleJobDefManager.get_jobs_by_status": "self status fl_ctx",
    "nvflare.apis.impl.job_def_manager.SimpleJobDefManager.update_meta": "self jid meta fl_ctx",
    # what is dialled, and where the server listens
    "nvflare.fuel.f3.drivers.net_utils.get_address": "params",
    # connections and logins at the server
    "nvflare.fuel.f3.cellnet.identity.is_mtls_connection": "params",
    "nvflare.fuel.f3.sfm.conn_manager.ConnManager.update_endpoint": "self sfm_conn data",
    "nvflare.fuel.f3.drivers.grpc_driver.StreamConnection.close": "self",
    "nvflare.private.fed.server.client_manager.ClientManager.authenticate": "self request fl_ctx",
    "nvflare.private.fed.server.client_manager.ClientManager.remove_client": "self token",
    "nvflare.private.fed.server.fed_server.FederatedServer._resolve_client_fqcn_for_auth": (
        "self client_name token"
    ),
    "nvflare.private.fed.server.fed_server.FederatedServer._ready_for_registration": "self fl_ctx",
    "nvflare.private.fed.server.fed_server.FederatedServer.set_admin_server": "self admin_server",
    "nvflare.private.fed.utils.identity_utils.IdentityAsserter": "private_key_file cert_file",
    "nvflare.private.fed.utils.identity_utils.IdentityVerifier": "root_cert_file=",
    "nvflare.private.fed.utils.identity_utils.IdentityVerifier.verify_common_name": (
        "self asserted_cn nonce asserter_cert signature intermediate_certs expected_eku"
    ),
    # what the server asks of a site, and the door for jobs
    "nvflare.apis.app_deployer_spec.AppDeployerSpec.deploy": (
        "self workspace job_id job_meta app_name app_data fl_ctx"
    ),
    "nvflare.private.admin_defs.Message.get_header": "self key default",
    "nvflare.private.admin_defs.Message.set_header": "self key value",
    "nvflare.private.admin_defs.error_reply": "err",
    "nvflare.private.admin_defs.ok_reply": "body=",
    "nvflare.private.fed.client.admin.RequestProcessor.get_topics": "self",
    "nvflare.private.fed.client.admin.RequestProcessor.process": "self req app_ctx",
    "nvflare.private.fed.client.client_engine.ClientEngine.deploy_app": (
        "self app_name= job_id= job_meta= client_name= app_data="
    ),
    "nvflare.private.fed.client.client_engine.ClientEngine.get_component": "self component_id",
    "nvflare.private.fed.client.client_engine.ClientEngine.get_client_name": "self",
    "nvflare.private.fed.utils.app_deployer.AppDeployer.deploy": (
        "self workspace job_id job_meta app_name app_data fl_ctx"
    ),
    "nvflare.lighter.utils.verify_folder_signature_and_get_signers": "src_folder root_ca_path",
    # what the server reads of a job, and asks about it
    "nvflare.apis.app_validation.AppValidator.validate": "self app_folder",
    "nvflare.fuel.utils.config.ConfigLoader": "fmt",
    "nvflare.fuel.utils.config.ConfigLoader.load_config": "self file_path",
    "nvflare.fuel.utils.config.ConfigLoader.load_config_from_dict": "self config_dict",
    "nvflare.fuel.utils.config.ConfigLoader.load_config_from_str": "self config_str",
    # the processes of jobs
    "nvflare.app_common.job_launcher.client_process_launcher.ClientProcessJobLauncher.get_command": (
        "self job_meta fl_ctx"
    ),
    "nvflare.app_common.job_launcher.server_process_launcher.ServerProcessJobLauncher.get_command": (
        "self job_meta fl_ctx"
    ),
    "nvflare.app_common.job_launcher.process_launcher.ProcessHandle": "process_adapter=",
    "nvflare.app_common.job_launcher.process_launcher.ProcessHandle.wait": "self",
    "nvflare.app_common.job_launcher.process_launcher.ProcessJobLauncher.get_command": "self job_meta fl_ctx",
    "nvflare.app_common.job_launcher.process_launcher.ProcessJobLauncher.handle_event": (
        "self event_type fl_ctx"
    ),
    "nvflare.app_common.job_launcher.process_launcher.ProcessJobLauncher.launch_job": "self job_meta fl_ctx",
    "nvflare.apis.workspace.Workspace.get_file_path_in_startup": "self file_basename",
    "nvflare.fuel.f3.cellnet.credential_manager.SimpleCellCipher": "root_ca pri_key cert",
    "nvflare.utils.job_launcher_utils.get_credential_env": "job_args",
    "nvflare.utils.process_utils.spawn_process": "cmd_args env",
    "nvflare.utils.job_launcher_utils.get_client_job_args": "",
    "nvflare.utils.job_launcher_utils.get_server_job_args": "",
    "nvflare.app_common.storages.filesystem_storage.FilesystemStorage": "root_dir",
    "nvflare.app_common.storages.filesystem_storage.FilesystemStorage.update_meta": "self uri meta replace",
    "nvflare.app_common.widgets.component_path_authorizer.ComponentPathAuthorizer": "",
    "nvflare.app_common.widgets.component_path_authorizer."
    "ComponentPathAuthorizer.authorize_component_config": "self component_config fl_ctx=",
    # the Client API of scripts
    "nvflare.app_common.abstract.fl_model.FLModel": (
        "params_type= params= current_round= total_rounds= meta="
    ),
    "nvflare.app_common.utils.fl_model_utils.FLModelUtils.from_shareable": "shareable",
    "nvflare.apis.utils.analytix_utils.create_analytic_dxo": "tag value data_type",
    "nvflare.app_common.widgets.streaming.AnalyticsReceiver.handle_event": "self event_type fl_ctx",
    "nvflare.client.in_process.api.InProcessClientAPI": "task_metadata",
    "nvflare.client.in_process.api.InProcessClientAPI.get_site_name": "self",
    "nvflare.client.in_process.api.InProcessClientAPI.init": "self rank config",
    "nvflare.client.in_process.api.InProcessClientAPI.is_running": "self",
    "nvflare.client.in_process.api.InProcessClientAPI.log": "self key value data_type",
    "nvflare.client.in_process.api.InProcessClientAPI.receive": "self timeout",
    "nvflare.client.in_process.api.InProcessClientAPI.send": "self model clear_cache",
    "nvflare.client.in_process.api.InProcessClientAPI.set_meta": "self meta",
    "nvflare.fuel.data_event.data_bus.DataBus": "",
    "nvflare.fuel.data_event.data_bus.DataBus.put_data": "self key datum",
    "nvflare.fuel.data_event.data_bus.DataBus.subscribe": "self topics callback",
    # jobs built in Python
    "nvflare.fuel.utils.class_utils.get_component_init_parameters": "component",
    "nvflare.job_config.fed_job_config.FedJobConfig.generate_job_config": "self job_root",
    "nvflare.job_config.fed_job_config.FedJobConfig.set_app_packages": "self app_packages",
    "nvflare.job_config.fed_job_config.FedJobConfig.simulator_run": "self workspace",
    # an admin's session
    "nvflare.fuel.flare_api.flare_api.Session": "username startup_path",
    "nvflare.fuel.flare_api.flare_api.Session.abort_job": "self job_id",
    "nvflare.fuel.flare_api.flare_api.Session.clone_job": "self job_id",
    "nvflare.fuel.flare_api.flare_api.Session.close": "self",
    "nvflare.fuel.flare_api.flare_api.Session.get_job_meta": "self job_id",
    "nvflare.fuel.flare_api.flare_api.Session.get_system_info": "self",
    "nvflare.fuel.flare_api.flare_api.Session.list_jobs": "self detailed=",
    "nvflare.fuel.flare_api.flare_api.Session.submit_job": "self job_definition_path",
    "nvflare.fuel.flare_api.flare_api.Session.try_connect": "self timeout",
    "nvflare.fuel.flare_api.flare_api.Session.do_app_command": "self job_id topic cmd_data",
    "nvflare.fuel.hci.client.api.AdminAPI._print_hci": "self msg",
    "nvflare.fuel.hci.client.api.AdminAPI.server_execute": "self command",
    "nvflare.fuel.f3.streaming.download_service.Consumer.consume": "self ref_id state data",
    "nvflare.fuel.f3.streaming.download_service.Consumer.download_completed": "self ref_id",
    "nvflare.fuel.f3.streaming.download_service.Consumer.download_failed": "self ref_id reason",
    "nvflare.fuel.f3.streaming.download_service.download_object": (
        "from_fqcn= ref_id= per_request_timeout= cell= consumer= abort_signal="
    ),
    "nvflare.fuel.hci.client.file_transfer.FileTransferModule": "upload_dir download_dir",
    # provisioning
    "nvflare.lighter.ctx.ProvisionContext.get_kit_dir": "self entity",
    "nvflare.lighter.ctx.ProvisionContext.get_local_dir": "self entity",
    "nvflare.lighter.ctx.ProvisionContext.get_result_location": "self",
    "nvflare.lighter.entity.Project": "name= description= props=",
    "nvflare.lighter.entity.Project.add_admin": "self name org props",
    "nvflare.lighter.entity.Project.add_client": "self name org props",
    "nvflare.lighter.entity.Project.set_server": "self name org props",
    "nvflare.lighter.entity.Project.get_all_participants": "self",
    "nvflare.lighter.entity.Project.get_clients": "self",
    "nvflare.lighter.entity.Project.get_server": "self",
    "nvflare.lighter.impl.static_file.StaticFileBuilder": "config_folder= scheme= require_signed_jobs=",
    "nvflare.lighter.impl.workspace.WorkspaceBuilder": "",
    "nvflare.lighter.spec.Builder.build": "self project ctx",
    "nvflare.lighter.spec.Builder.finalize": "self project ctx",
    "nvflare.lighter.provisioner.Provisioner": "root_dir builders",
    "nvflare.lighter.provisioner.Provisioner.provision": "self project logger=",
}
"""What flaremesh calls or overrides, and how: by position ``name``, by keyword ``name=``."""

NAMES = {
    "nvflare.apis.analytix": "ANALYTIC_EVENT_TYPE",
    "nvflare.apis.analytix.AnalyticsDataType": "METRIC METRICS SCALAR SCALARS",
    "nvflare.apis.analytix.TrackConst": "GLOBAL_STEP_KEY",
    "nvflare.app_common.abstract.fl_model.ParamsType": "DIFF FULL",
    "nvflare.app_common.app_constant.AlgorithmConstants": "SCAFFOLD_CTRL_DIFF SCAFFOLD_CTRL_GLOBAL",
    "nvflare.app_common.app_constant.AppConstants": "TASK_SUBMIT_MODEL TASK_TRAIN TASK_VALIDATION",
    "nvflare.client.api_spec": "CLIENT_API_KEY",
    "nvflare.client.config.ConfigKey": (
        "EVAL_TASK_NAME EXCHANGE_FORMAT SERVER_EXPECTED_FORMAT SUBMIT_MODEL_TASK_NAME TASK_EXCHANGE "
        "TASK_NAME TRAIN_TASK_NAME TRAIN_WITH_EVAL TRANSFER_TYPE"
    ),
    "nvflare.client.config.ExchangeFormat": "PYTORCH",
    "nvflare.client.config.TransferType": "FULL",
    "nvflare.client.in_process.api": "TOPIC_LOCAL_RESULT",
    "nvflare.apis.job_launcher_spec.JobProcessArgs": "OPTIONS",
    "nvflare.apis.job_launcher_spec.JobReturnCode": "SUCCESS",
    "nvflare.utils.process_utils": "ProcessAdapter",
    "nvflare.app_common.default_component_policy": "DEFAULT_CLASS_ALLOW_LIST",
    "nvflare.fuel.common.excepts": "ConfigError",
    "nvflare.fuel.f3.cellnet.defs.MessageHeaderKey": "CHANNEL ORIGIN RETURN_CODE TOPIC",
    "nvflare.fuel.f3.cellnet.defs.ReturnCode": "OK UNAUTHENTICATED",
    "nvflare.fuel.f3.cellnet.fqcn.FQCN": "ROOT_SERVER",
    "nvflare.fuel.f3.cellnet.net_agent": "_CHANNEL _TOPIC_HEARTBEAT",
    "nvflare.fuel.f3.drivers.aio_grpc_driver": "get_address",
    "nvflare.fuel.f3.drivers.driver_params.DriverParams": "HOST PORT",
    "nvflare.fuel.f3.drivers.grpc_driver": "get_address",
    "nvflare.fuel.f3.streaming.stream_const": "STREAM_CHANNEL StreamHeaderKey",
    "nvflare.fuel.f3.streaming.stream_const.StreamHeaderKey": "CHANNEL TOPIC",
    "nvflare.widgets.fed_event": "FED_EVENT_TOPIC",
    "nvflare.lighter.constants.CtxKey": "BUILD_ERROR ERRORS",
    "nvflare.lighter.constants.PropKey": (
        "ADMIN_PORT ALLOW_LOG_STREAMING CAPACITY DEFAULT_HOST FED_LEARN_PORT HOST_NAMES NUM_GPUS ROLE"
    ),
    "nvflare.lighter.ctx": "ProvisionContext",
    "nvflare.lighter.tool_consts": "NVFLARE_SIG_FILE NVFLARE_SUBMITTER_CRT_FILE",
    "nvflare.private.admin_defs": "Message",
    "nvflare.private.defs": "ERROR_MSG_PREFIX",
    "nvflare.private.fed.server.job_cmds": "CLONED_META_KEYS",
    "nvflare.private.defs.CellChannel": "AUX_COMMUNICATION CLIENT_COMMAND CLIENT_MAIN SERVER_MAIN",
    "nvflare.private.defs.CellChannelTopic": "REPORT_JOB_FAILURE",
    "nvflare.private.defs.CellMessageHeaderKeys": "CLIENT_NAME CLIENT_TYPE",
    "nvflare.private.defs.ClientType": "ADMIN REGULAR",
    "nvflare.private.defs.JobFailureMsgKey": "CODE JOB_ID",
    "nvflare.private.fed.authenticator": "MISSING_CLIENT_FQCN",
    "nvflare.private.defs.InfoCollectorTopic": "RESET_ERRORS SHOW_ERRORS SHOW_STATS",
    "nvflare.private.defs.RequestHeader": "JOB_ID JOB_META",
    "nvflare.private.defs.SysCommandTopic": (
        "CONFIGURE_SITE_LOG REPORT_ENV REPORT_RESOURCES REPORT_VERSION SHELL SYS_INFO"
    ),
    "nvflare.private.defs.TrainingTopic": (
        "ABORT ABORT_TASK CANCEL_RESOURCE CHECK_RESOURCE CHECK_STATUS CONFIGURE_JOB_LOG DELETE_RUN DEPLOY "
        "GET_SCOPES NOTIFY_JOB_STATUS RESTART SHUTDOWN START_JOB"
    ),
    "nvflare.private.fed.client.admin_commands": "ConfigureJobLogCommand",
    "nvflare.private.fed.client.admin_commands.AdminCommands": "commands",
    "nvflare.private.fed.client.client_req_processors.ClientRequestProcessors": "request_processors",
    "nvflare.private.fed.client.client_status.ClientStatus": "STOPPED",
    "nvflare.private.fed.server.server_status.ServerStatus": "SHUTDOWN",
    "nvflare.private.fed.simulator.simulator_const.SimulatorConstants": "JOB_NAME",
    "nvflare.fuel.hci.server.constants.ConnProps": "CMD_ENTRY",
    "nvflare.private.fed.server.cmd_utils.CommandUtil": "JOB_ID",
    "nvflare.security.security": "COMMAND_CATEGORIES",
    "nvflare.security.security.CommandCategory": "SHELL_COMMANDS",
    "nvflare.apis.storage": "WORKSPACE_ZIP",
    "nvflare.fuel.hci.client": "api",
    "nvflare.fuel.utils.config.ConfigFormat": "JSON",
    "nvflare.fuel.utils.config_factory.ConfigFactory": "_fmt2Loader",
    "nvflare.fuel.hci.file_transfer_defs": "PULL_FOLDER_FQN",
    "nvflare.fuel.hci.proto.MetaKey": "FILES SOURCE_FQCN",
}
"""Names that flaremesh reads, by module or class."""

ATTRIBUTES = {
    "nvflare.fuel.flare_api.api_spec.ClientInfo": "name",
    "nvflare.fuel.flare_api.api_spec.SystemInfo": "client_info",
    "nvflare.fuel.f3.cellnet.cell.Cell": "core_cell",
    "nvflare.fuel.f3.cellnet.core_cell.CoreCell": (
        "agents communicator sent_msg_size_pool received_msg_size_pool"
    ),
    "nvflare.fuel.flare_api.flare_api.Session": "api",
    "nvflare.fuel.hci.client.api.AdminAPI": (
        "cell cmd_modules file_download_progress_timeout session_abort_signal"
    ),
    "nvflare.fuel.hci.client.file_transfer.FileTransferModule": "cmd_handlers",
    "nvflare.job_config.fed_job_config.FedJobConfig": "app_packages",
    "nvflare.job_config.api.FedJob": "job",
    "nvflare.private.admin_defs.Message": "body",
    "nvflare.private.fed.client.fed_client.FederatedClient": "cell client_name status token",
    "nvflare.fuel.f3.communicator.Communicator": "conn_manager",
    "nvflare.fuel.f3.drivers.grpc_driver.StreamConnection": "context",
    "nvflare.fuel.f3.sfm.sfm_conn.SfmConnection": "conn",
    "nvflare.fuel.hci.server.hci.AdminServer": "cmd_reg cred_keeper",
    "nvflare.private.fed.server.client_manager.ClientManager": "cred_keeper",
    "nvflare.private.fed.server.cred_keeper.CredKeeper": "id_asserter id_verifier",
    "nvflare.private.fed.server.fed_server.FederatedServer": (
        "cell client_manager cred_keeper my_own_token_signature status"
    ),
    "nvflare.private.fed.server.job_runner.JobRunner": "running_jobs",
    "nvflare.private.fed.server.server_engine.ServerEngine": "run_processes server",
    "nvflare.apis.job_def.Job": "run_aborted",
    "nvflare.app_common.abstract.fl_model.FLModel": "meta metrics params params_type",
    "nvflare.client.in_process.api.InProcessClientAPI": "data_bus fl_model meta stop stop_reason",
    "nvflare.lighter.entity.Participant": "name",
    "nvflare.private.fed.client.client_run_manager.ClientRunManager": "client",
    "nvflare.private.fed.client.fed_client_base.FederatedClientBase": "components",
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
