"""Real cells of NVFlare in one process."""

from types import SimpleNamespace

import pytest
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamHeaderKey
from nvflare.private.defs import CellChannel, CellChannelTopic, CellMessageHeaderKeys, JobFailureMsgKey
from nvflare.widgets.fed_event import FED_EVENT_TOPIC

from flaremesh.p2p.nvflare.cells import FRAMES, METRICS, ParticipantCell, RunCell
from ports import free_port

SITE, RUN, OTHER = "bonn", "bonn.run-1", "ulm"


@pytest.fixture(scope="module")  # NVFlare refuses the names of stopped cells to others
def cells():
    """Those of the server, a site, and a run of the site, by name."""
    url = f"tcp://127.0.0.1:{free_port()}"
    cells = {
        name: SimpleNamespace(core_cell=CoreCell(name, url, secure=False, credentials={}))
        for name in ("server", SITE, RUN, OTHER)
    }
    for cell in cells.values():
        cell.core_cell.start()
    yield cells
    for cell in cells.values():
        cell.core_cell.stop()


def authenticate(cell, client):
    """Let the cell send under this name, as NVFlare does once the server has verified it."""

    def name(message):
        message.set_header(CellMessageHeaderKeys.CLIENT_NAME, client)

    cell.core_cell.add_outgoing_request_filter("*", "*", name)


def test_the_server_hears_a_sites_bytes_and_neither_runs_nor_who_speaks_for_another_site(cells):
    heard = []
    site, run = ParticipantCell(cells[SITE]), ParticipantCell(cells[RUN])
    ParticipantCell(cells["server"]).hear(METRICS, lambda *what: heard.append(what))
    authenticate(cells[RUN], SITE)
    run.tell(METRICS, b"by a run")
    site.tell(METRICS, b"without a name")
    authenticate(cells[SITE], "ulm")
    site.tell(METRICS, b"under another name")
    authenticate(cells[SITE], SITE)
    site.tell(METRICS, {"no": "bytes"})
    site.tell(METRICS, b"the last")
    assert heard == [(SITE, b"the last")]


def test_a_site_hears_the_bytes_of_another_one_and_nothing_else_that_it_sends(cells):
    heard = []
    site, other = ParticipantCell(cells[SITE]), ParticipantCell(cells[OTHER])
    site.hear_sites(FRAMES, lambda *what: heard.append(what))
    for payload in (1 << 40, {"no": "bytes"}, None, b"the last"):
        other.tell(FRAMES, payload, SITE)
    assert heard == [(OTHER, b"the last")]


def test_the_server_hears_of_failed_jobs_whatever_a_site_says_of_them(cells):
    heard = []
    ParticipantCell(cells["server"]).hear_failures(lambda *what: heard.append(what))
    cells["server"].core_cell.register_request_cb(
        CellChannel.SERVER_MAIN, CellChannelTopic.REPORT_JOB_FAILURE, lambda message: None
    )
    reports = [
        7,
        None,
        {},
        {JobFailureMsgKey.CODE: 1, JobFailureMsgKey.JOB_ID: ["run-1"]},
        {JobFailureMsgKey.CODE: 1, JobFailureMsgKey.JOB_ID: "../run-1"},
        {JobFailureMsgKey.CODE: {}, JobFailureMsgKey.JOB_ID: "run-1"},
        {JobFailureMsgKey.CODE: 0, JobFailureMsgKey.JOB_ID: "run-1"},
        {JobFailureMsgKey.CODE: 1, JobFailureMsgKey.JOB_ID: "run-1"},
    ]
    for report in reports:
        cells[SITE].core_cell.fire_and_forget(
            CellChannel.SERVER_MAIN,
            CellChannelTopic.REPORT_JOB_FAILURE,
            "server",
            Message(payload=report),
            optional=True,
        )
    assert heard == [(SITE, "run-1")]


@pytest.mark.parametrize(
    ("answer", "heard"), [(b"yes", b"yes"), (1 << 40, None), ("yes", None), (bytes(1 << 17), None)]
)
def test_a_site_hears_of_another_one_a_few_bytes_and_nothing_else(cells, answer, heard):
    ParticipantCell(cells["server"]).answer("question", lambda site, data: answer)
    assert ParticipantCell(cells[SITE]).ask("server", "question", 5.0) == heard


def test_who_answers_hears_who_asks_and_what(cells):
    ParticipantCell(cells["server"]).answer("question", lambda *asked: repr(asked).encode())
    told = ParticipantCell(cells[SITE]).ask("server", "question", 5.0, b"which?")
    assert told == repr((SITE, b"which?")).encode()


def test_a_run_hears_the_bytes_of_its_sites_and_nothing_else_that_they_send(cells):
    heard = []
    engine = SimpleNamespace(get_cell=lambda: cells[RUN], get_client_from_name=lambda name: None)
    context = SimpleNamespace(get_engine=lambda: engine, get_job_id=lambda: "run-1")
    RunCell(context, ["ulm"]).listen(FRAMES, lambda *what: heard.append(what))
    for payload in (1 << 40, {"no": "bytes"}, None, b"the last"):
        cells[SITE].core_cell.fire_and_forget(
            "flaremesh", FRAMES, RUN, Message(payload=payload), optional=True
        )
    assert heard == [(SITE, b"the last")]


@pytest.mark.parametrize(("channel", "topic"), [("admin", "train.abort"), ("_net_manager", "stop_cell")])
def test_a_process_obeys_its_own_participant_and_the_server_and_no_other_member(cells, channel, topic):
    obeyed = []
    core = cells["server"].core_cell
    core.register_request_cb(channel, topic, lambda message: obeyed.append(message.payload))
    ParticipantCell(cells["server"]).obey_the_server_alone()
    for sender in (SITE, RUN, "server"):
        cells[sender].core_cell.fire_and_forget(channel, topic, "server", Message(payload=sender))
    assert obeyed == ["server"]
    cells[RUN].core_cell.register_request_cb(channel, topic, lambda message: obeyed.append(message.payload))
    ParticipantCell(cells[RUN]).obey_the_server_alone()
    cells[SITE].core_cell.fire_and_forget(channel, topic, RUN, Message(payload="its own site"))
    assert obeyed == ["server", "its own site"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_does_what_events_of_the_server_say_and_not_what_those_of_another_member_do(cells, streamed):
    heard = []
    channel, topic = CellChannel.AUX_COMMUNICATION, FED_EVENT_TOPIC
    headers = {StreamHeaderKey.CHANNEL: channel, StreamHeaderKey.TOPIC: topic} if streamed else {}
    carried = (STREAM_CHANNEL, STREAM_DATA_TOPIC) if streamed else (channel, topic)
    cells[RUN].core_cell.register_request_cb(*carried, lambda message: heard.append(message.payload))
    ParticipantCell(cells[RUN]).obey_the_server_alone()
    for sender in (OTHER, "server"):
        cells[sender].core_cell.fire_and_forget(*carried, RUN, Message(dict(headers), sender))
    assert heard == ["server"]
