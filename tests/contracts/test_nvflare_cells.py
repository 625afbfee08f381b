"""How messages travel between NVFlare's cells: real ones, in one process."""

import logging
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.stats_pool import StatsPoolManager
from nvflare.lighter.utils import sign_content
from nvflare.private.defs import CellChannel, CellChannelTopic, CellMessageHeaderKeys, JobFailureMsgKey
from nvflare.private.fed.authenticator import validate_auth_headers
from nvflare.private.fed.cmi import CellMessageInterface
from nvflare.private.fed.utils.identity_utils import TokenVerifier

from flaremesh.p2p.nvflare.cells import ParticipantCell
from flaremesh.topology.schema import SERVER

URL = "grpc://127.0.0.1:1"  # which nobody dials
CHANNEL, TOPIC, SITE = "flaremesh", "frames", "bonn"


@pytest.fixture
def cells(monkeypatch) -> tuple[CoreCell, ...]:
    """The server's and a site's."""
    # NVFlare keeps the names of stopped cells, and refuses them to others
    monkeypatch.setattr(CoreCell, "ALL_CELLS", {})
    monkeypatch.setattr(StatsPoolManager, "pools", {})
    cells = tuple(CoreCell(name, URL, secure=False, credentials={}) for name in (SERVER, SITE))
    for cell in cells:
        # cells of one process call each other: to start them too would open a port
        cell.running = True
    return cells


def post(site, data=b"data"):
    site.fire_and_forget(CHANNEL, TOPIC, SERVER, Message(payload=data), optional=True)


def test_the_servers_address_is_the_name_of_the_server():
    assert FQCN.ROOT_SERVER == SERVER, "FQCN.ROOT_SERVER changed"


def test_a_jobs_address_is_the_participants_and_the_run():
    assert FQCN.join([SITE, "run-1"]) == "bonn.run-1", "FQCN.join changed"


def test_a_message_names_its_origin_channel_and_topic_and_brings_bytes_as_bytes(cells):
    server, site = cells
    heard = []
    server.register_request_cb(CHANNEL, TOPIC, heard.append)
    post(site)
    (message,) = heard
    assert message.get_header(MessageHeaderKey.ORIGIN) == SITE, "header ORIGIN changed"
    assert message.get_header(MessageHeaderKey.CHANNEL) == CHANNEL, "header CHANNEL changed"
    assert message.get_header(MessageHeaderKey.TOPIC) == TOPIC, "header TOPIC changed"
    assert bytes(message.payload) == b"data", "a payload of bytes no longer arrives as bytes"


def test_filters_for_everything_are_all_called_in_their_order_before_the_message_is_delivered(cells):
    server, site = cells
    calls = []
    for name in ("NVFlare's", "flaremesh's"):
        server.add_incoming_request_filter("*", "*", lambda message, name=name: calls.append(name))
    server.register_request_cb(CHANNEL, TOPIC, lambda message: calls.append("delivered"))
    post(site)
    assert calls == ["NVFlare's", "flaremesh's", "delivered"], "CoreCell's request filters changed"


def test_a_filter_for_one_topic_silences_those_for_everything(cells):
    server, site = cells
    calls = []
    server.add_incoming_request_filter("*", "*", lambda message: calls.append("*"))
    server.add_incoming_request_filter(CHANNEL, TOPIC, lambda message: calls.append(TOPIC))
    server.register_request_cb(CHANNEL, TOPIC, lambda message: None)
    post(site)
    assert calls == [TOPIC], 'Registry.find changed: flaremesh may filter one topic instead of "*"'


class Messenger(CellMessageInterface):
    """NVFlare's, as far as it filters messages."""

    def send_to_cell(self, *args, **kwargs):
        raise AssertionError("messages go through the cells themselves here")


def test_nvflares_own_filters_go_on_working_beside_flaremeshs(cells):
    server, site = cells
    failures, delivered = [], []
    Messenger(SimpleNamespace(get_cell=lambda: server, new_context=FLContext))
    ParticipantCell(SimpleNamespace(core_cell=server)).hear_failures(lambda *what: failures.append(what))
    kind = CellChannel.SERVER_MAIN, CellChannelTopic.REPORT_JOB_FAILURE
    server.register_request_cb(*kind, delivered.append)
    report = {JobFailureMsgKey.JOB_ID: "run-1", JobFailureMsgKey.CODE: 1}
    site.fire_and_forget(*kind, SERVER, Message(payload=report), optional=True)
    assert failures == [(SITE, "run-1")], "a report of a job's failure changed"
    (message,) = delivered
    context = message.get_prop(CellMessageInterface.PROP_KEY_FL_CTX)
    assert isinstance(context, FLContext), "nvflare.private.fed.cmi filters requests otherwise than for *"


def test_a_request_is_answered_with_the_return_code_and_the_body(cells):
    server, site = cells
    server.register_request_cb(CHANNEL, TOPIC, lambda message: make_reply(ReturnCode.OK, body=b"answer"))
    reply = site.send_request(CHANNEL, TOPIC, SERVER, Message(payload=b""), timeout=5.0, optional=True)
    assert reply.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK, "header RETURN_CODE changed"
    assert bytes(reply.payload) == b"answer", "make_reply's body is no longer the reply's payload"


def test_a_request_that_nobody_answers_comes_back_with_another_return_code(cells):
    _, site = cells
    reply = site.send_request(CHANNEL, TOPIC, SERVER, Message(payload=b""), timeout=5.0, optional=True)
    code = None if reply is None else reply.get_header(MessageHeaderKey.RETURN_CODE)
    assert code != ReturnCode.OK, "CoreCell.send_request calls a request answered that nobody took"


@pytest.mark.parametrize(
    ("name", "origin", "taken"),
    [
        (SITE, SITE, True),
        (SITE, f"{SITE}.run-1", True),
        ("ulm", SITE, False),
        (SITE, "ulm", False),
        (SITE, f"{SITE}er", False),
    ],
)
def test_the_server_binds_a_messages_name_to_its_token_and_its_origin_to_the_name(name, origin, taken):
    key = rsa.generate_private_key(65537, 2048)
    message = Message(
        {
            MessageHeaderKey.CHANNEL: CHANNEL,
            MessageHeaderKey.TOPIC: TOPIC,
            MessageHeaderKey.ORIGIN: origin,
            CellMessageHeaderKeys.CLIENT_NAME: name,
            CellMessageHeaderKeys.TOKEN: "token",
            CellMessageHeaderKeys.TOKEN_SIGNATURE: sign_content(f"{SITE}token", key),
        }
    )
    # of a certificate, the verifier takes the public key
    verifier = TokenVerifier(SimpleNamespace(public_key=key.public_key))
    refusal = validate_auth_headers(message, verifier, logging.getLogger(), lambda name, token: SITE)
    assert (refusal is None) is taken, f"validate_auth_headers now takes {name} from {origin}: {not taken}"


def test_a_cell_counts_the_mebibytes_of_what_it_sends_by_the_end_of_the_messages_name(cells):
    server, site = cells
    server.register_request_cb(CHANNEL, TOPIC, lambda message: None)
    post(site, bytes(1 << 20))
    counted = {
        category: sum(size["total"] for size in bins if size)
        for category, bins in site.sent_msg_size_pool.to_dict()["cat_data"].items()
        if category.endswith(f":{CHANNEL}:{TOPIC}")
    }
    assert counted, "CoreCell names what it counts otherwise than ...:channel:topic"
    assert max(counted.values()) >= 1.0, "CoreCell counts in another unit than MiB"
    assert max(counted.values()) < 1.1, "CoreCell counts in another unit than MiB"
