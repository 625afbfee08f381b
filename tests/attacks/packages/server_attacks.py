"""What the owner of the server does from inside his own process."""

import os
from typing import Any

from intruder import Intruder
from nvflare.apis.job_def import JobMetaKey
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.private.admin_defs import Message
from nvflare.private.defs import RequestHeader, TrainingTopic

from flaremesh.p2p.nvflare.server import ServerProcess


def command(server: Intruder, topic: str, body: Any, job: str = "", **headers: Any) -> dict[str, str]:
    """Tell all sites something, as an admin's command that needs no rights; returns what each answers."""
    message = Message(topic=topic, body=body)
    message.set_headers({RequestHeader.JOB_ID: job} | headers)
    sites = {client.token: client.name for client in server.engine.get_clients()}
    sender = server.engine.server.admin_server
    replies = sender.send_requests_and_get_reply_dict(dict.fromkeys(sites, message), timeout_secs=20.0)
    return {sites[token]: str(reply.body) if reply else "" for token, reply in replies.items()}


def deploy(server: Intruder, app: bytes, job: str) -> dict[str, str]:
    """Give all sites an app, without asking whose it is."""
    meta = {
        JobMetaKey.JOB_ID.value: job,
        JobMetaKey.SUBMITTER_NAME.value: "admin@example.org",
        JobMetaKey.SUBMITTER_ORG.value: "consortium",
        JobMetaKey.SUBMITTER_ROLE.value: "project_admin",
    }
    headers = {RequestHeader.JOB_META: meta, RequestHeader.APP_NAME: "app"}
    return command(server, TrainingTopic.DEPLOY, app, job, **headers)


def start(server: Intruder, job: str) -> dict[str, str]:
    """Let all sites start a job."""
    meta = {JobMetaKey.JOB_ID.value: job, JobMetaKey.JOB_CLIENTS.value: []}
    return command(server, TrainingTopic.START_JOB, {}, job, **{RequestHeader.JOB_META: meta})


def conceal_ends(server: Intruder) -> None:
    """Tell no site that a run has finished everywhere."""
    ServerProcess.tell_over = lambda *_: None


def keep_frames(server: Intruder, file: str) -> None:
    """Keep whatever comes to this process from now on, as NVFlare has decrypted it, also what it forwards."""
    take = ConnManager.process_frame_task
    kept = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def keep(manager: ConnManager, connection: Any, frame: bytes) -> None:
        os.write(kept, frame)
        take(manager, connection, frame)

    ConnManager.process_frame_task = keep
