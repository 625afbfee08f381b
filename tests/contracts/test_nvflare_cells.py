"""How messages travel between NVFlare's cells: real ones, in one process."""

import ast
import inspect

import pytest
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.stats_pool import StatsPoolManager
from nvflare.private.fed import authenticator, cmi

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


def test_nvflares_own_filters_are_registered_for_everything():
    calls = [
        [keyword.value.value for keyword in node.keywords if keyword.arg in ("channel", "topic")]
        for node in ast.walk(ast.parse(inspect.getsource(cmi)))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_incoming_request_filter"
    ]
    assert calls, "nvflare.private.fed.cmi registers no request filter any more"
    assert all(call == ["*", "*"] for call in calls), f"nvflare.private.fed.cmi filters {calls}"


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


def test_the_server_binds_a_messages_name_to_its_token_and_its_origin_to_the_name():
    source = inspect.getsource(authenticator.validate_auth_headers)
    for step in (
        "client_name = message.get_header(CellMessageHeaderKeys.CLIENT_NAME)",
        "token_verifier.verify(client_name, token, signature)",
        "_origin_matches_fqcn(origin, client_fqcn)",
    ):
        assert step in source, f"validate_auth_headers no longer does: {step}"


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
