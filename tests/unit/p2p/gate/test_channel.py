"""What a site's process answers of all that a server can ask."""

import io
import json
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from gate_site import JOB
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.private.admin_defs import Message, MsgHeader, ReturnCode
from nvflare.private.defs import RequestHeader, SysCommandTopic, TrainingTopic
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

from flaremesh.certificates import Identity, Kind
from flaremesh.p2p.gate.deployer import SiteDoor


@pytest.fixture
def ask(site, monkeypatch):
    """Asks a site as its server would, once its process is up."""
    monkeypatch.setattr(
        ClientRequestProcessors, "request_processors", [*ClientRequestProcessors.request_processors]
    )

    def asked(topic, body="", **headers):
        started = FLContext()
        started.set_prop(FLContextKey.WORKSPACE_OBJECT, site.nvflare)
        SiteDoor().handle_event(EventType.SYSTEM_BOOTSTRAP, started)
        message = Message(topic, body)
        message.set_headers(headers)
        (processor,) = [p for p in ClientRequestProcessors.request_processors if topic in p.get_topics()]
        return processor.process(message, None)  # what is refused reaches no engine

    return asked


def refused(reply: Message) -> bool:
    return reply.get_header(MsgHeader.RETURN_CODE) == ReturnCode.ERROR


CLOSED = [
    SysCommandTopic.SHELL,
    SysCommandTopic.SYS_INFO,
    SysCommandTopic.REPORT_ENV,
    SysCommandTopic.CONFIGURE_SITE_LOG,
    TrainingTopic.CONFIGURE_JOB_LOG,
    TrainingTopic.RESTART,
    TrainingTopic.SHUTDOWN,
]


@pytest.mark.parametrize("topic", CLOSED)
def test_what_no_run_needs_is_refused_also_where_the_server_asks_for_no_rights(ask, topic):
    reply = ask(topic, "ls")
    assert refused(reply)
    assert "answers only what runs need" in reply.body


def test_the_sites_own_admin_can_open_what_is_closed(ask, site):
    file = site.workspace / "local/authorization.json"
    policy = json.loads(file.read_text())
    policy["permissions"]["project_admin"]["shell_commands"] = "o:site"
    file.write_text(json.dumps(policy))
    assert not refused(ask(SysCommandTopic.SHELL, "pwd"))
    assert refused(ask(SysCommandTopic.CONFIGURE_SITE_LOG, "{}"))


def test_what_runs_need_is_answered(ask):
    assert not refused(ask(SysCommandTopic.REPORT_VERSION))


@pytest.mark.parametrize(
    "topic", [TrainingTopic.ABORT, TrainingTopic.DEPLOY, TrainingTopic.START_JOB, TrainingTopic.DELETE_RUN]
)
@pytest.mark.parametrize("name", ["startup", "../bonn", f"{JOB}/..", 7])
def test_a_jobs_id_that_is_none_is_refused(ask, topic, name):
    assert "an id that is none" in ask(topic, **{RequestHeader.JOB_ID: name}).body


def test_a_job_that_was_not_let_in_is_not_started(ask, site):
    (site.workspace / JOB / "app_bonn").mkdir(parents=True)
    reply = ask(TrainingTopic.START_JOB, **{RequestHeader.JOB_ID: JOB, RequestHeader.JOB_META: {}})
    assert "has not let this job in just now" in reply.body


def test_what_a_run_has_left_is_not_removed_for_the_server(ask, site):
    (site.workspace / JOB).mkdir()
    assert "belongs to the site" in ask(TrainingTopic.DELETE_RUN, **{RequestHeader.JOB_ID: JOB}).body
    assert (site.workspace / JOB).exists()


def test_an_app_for_a_folder_that_is_there_is_refused(site):
    (site.workspace / JOB).mkdir()
    reason = SiteDoor().deploy(site.nvflare, JOB, {}, "app", b"", FLContext())
    assert "that an earlier one has" in reason


def test_of_two_apps_for_one_folder_at_the_same_time_one_is_taken(site):
    together = threading.Barrier(2)

    class Slow(SiteDoor):
        def admit(self, workspace, job, app):
            with suppress(threading.BrokenBarrierError):  # which both reach if the door takes both at once
                together.wait(timeout=0.5)
            return Identity("lead@example.org", "institute", Kind.ADMIN, "lead", datetime.now(UTC), "1")

    def deploy(content):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as made:
            made.writestr("config/config_fed_client.json", content)
        return door.deploy(site.nvflare, JOB, {}, "app", packed.getvalue(), FLContext())

    door = Slow()
    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(deploy, ["{}", "{}"]))
    assert not together.n_waiting
    assert answers[1] == "the server gives the job an id that is none, or that an earlier one has"


def test_of_what_the_server_says_of_a_job_only_what_is_needed_is_kept(site, app, submit):
    told = {"job_id": "x", "scope": "x", "launcher_spec": {"bonn": {"image": "x"}}, "submitter_role": "x"}
    told |= {"byoc": True, "resource_spec": {"bonn": {"num_of_gpus": 1}}}
    assert SiteDoor().deploy(site.nvflare, JOB, told, "app", submit(app), FLContext()) == ""
    assert json.loads((site.workspace / JOB / "meta.json").read_text()) == {
        "job_id": JOB,
        "resource_spec": {"bonn": {"num_of_gpus": 1}},
        "submitter_name": "lead@example.org",
        "submitter_org": "institute",
        "submitter_role": "lead",
    }
