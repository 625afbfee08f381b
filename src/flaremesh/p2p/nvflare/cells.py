"""Messages between the processes of a mesh, with a sender that the server has authenticated.

This hides NVFlare's cells: their addresses, headers, return codes, filters and counters.

NVFlare's aux messages name a sender that the sender itself wrote. The ORIGIN of a cell message is checked by
the server against the token of the client that sent it, so it is used here. Messages are bytes, because
NVFlare makes the receiver of an array download it.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.net_agent import _CHANNEL as _NETWORK
from nvflare.fuel.f3.cellnet.net_agent import _TOPIC_HEARTBEAT as _HEARTBEAT
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, StreamHeaderKey
from nvflare.private.defs import CellChannel, CellChannelTopic, CellMessageHeaderKeys, JobFailureMsgKey
from nvflare.private.fed.simulator.simulator_const import SimulatorConstants
from nvflare.widgets.fed_event import FED_EVENT_TOPIC

from flaremesh.p2p.nvflare.jobs import is_id

SERVER: Final = FQCN.ROOT_SERVER
"""Address of the server's own process."""

FRAMES: Final = "frames"
PROGRESS: Final = "progress"
PROBE: Final = "probe"
METRICS: Final = "metrics"
CHECKPOINT: Final = "checkpoint"
JOBS: Final = "jobs"
OVER: Final = "over"
TICKETS: Final = "tickets"
TRIAL_TICKETS: Final = "trial-tickets"

_CHANNEL: Final = "flaremesh"
_COMMANDS: Final = frozenset({CellChannel.CLIENT_MAIN, CellChannel.CLIENT_COMMAND, _NETWORK})
_EVENT: Final = CellChannel.AUX_COMMUNICATION, FED_EVENT_TOPIC
_MEBIBYTE = 1 << 20

_log = logging.getLogger(__name__)
_MOST_ANSWER = 1 << 16  # bytes of what a site answers to another


class ServerTraffic(NamedTuple):
    """Bytes that a cell has sent and received; what it forwards counts once, with what it sends.

    Attributes:
        frames: of messages on the topic FRAMES, which relay links send.
        other: of all other messages.
    """

    frames: float
    other: float


class ParticipantCell:
    """The end of a site's or of the server's own process, which lives across all runs.

    Args:
        cell: NVFlare's, of this process.
    """

    def __init__(self, cell: Any):
        self._core = cell.core_cell

    def obey_the_server_alone(self) -> None:
        """See `_obey_the_server_alone`."""
        _obey_the_server_alone(self._core)

    @property
    def reaches_server(self) -> bool:
        """There is a connection to the server."""
        return SERVER in self._core.agents

    def ask(self, whom: str, topic: str, timeout: float, data: bytes = b"") -> bytes | None:
        """What the process of a site, or the server's, answers; None if it does not in time, or too much.

        Args:
            whom: name of the site, which is asked through the server, or SERVER.
            topic: the subject, which the other process answers.
            timeout: seconds to wait.
            data: the question.
        """
        reply = self._core.send_request(
            _CHANNEL, topic, whom, Message(payload=data), timeout=timeout, optional=True
        )
        if reply is None or reply.get_header(MessageHeaderKey.RETURN_CODE) != ReturnCode.OK:
            return None
        return bytes(reply.payload) if _is_data(reply) and len(reply.payload) <= _MOST_ANSWER else None

    def answer(self, topic: str, handler: Callable[[str, bytes], bytes]) -> None:
        """Answer what sites, and the server, `ask` with ``handler(who, data)``, which must be quick."""

        def reply(message: Message) -> Message:
            data = bytes(message.payload) if _is_data(message) else b""
            return make_reply(ReturnCode.OK, body=handler(message.get_header(MessageHeaderKey.ORIGIN), data))

        self._core.register_request_cb(_CHANNEL, topic, reply)

    def answer_runs(self, topic: str, handler: Callable[[str, str, bytes], bytes]) -> None:
        """Answer what runs at sites ask the server with ``handler(site, job, data)``, which must be quick."""

        def reply(message: Message) -> Message:
            site, _, job = message.get_header(MessageHeaderKey.ORIGIN).partition(".")
            body = handler(site, job, bytes(message.payload)) if _is_data(message) and is_id(job) else b""
            return make_reply(ReturnCode.OK, body=body)

        self._core.register_request_cb(_CHANNEL, topic, reply)

    def tell(self, topic: str, data: bytes, whom: str = SERVER) -> None:
        """Send to the process of the server, or of a site; the message may be lost."""
        self._core.fire_and_forget(_CHANNEL, topic, whom, Message(payload=data), optional=True)

    def hear(self, topic: str, handler: Callable[[str, bytes], None]) -> None:
        """Call ``handler(who, data)`` for what participants, but not their runs, `tell` this one."""

        def deliver(message: Message) -> None:
            who = message.get_header(MessageHeaderKey.ORIGIN)
            # the name is bound to the certificate; the origin is bound to that name for registered sites only
            if who != message.get_header(CellMessageHeaderKeys.CLIENT_NAME):
                return
            if _is_data(message):
                handler(who, bytes(message.payload))

        self._core.register_request_cb(_CHANNEL, topic, deliver)

    def hear_sites(self, topic: str, handler: Callable[[str, bytes], None]) -> None:
        """Call ``handler(who, data)`` for what sites `tell` this one; the server vouches for their names.

        It has taken their logins off: what is worth more than its word must be proved by what is said.
        """

        def deliver(message: Message) -> None:
            if _is_data(message):
                handler(message.get_header(MessageHeaderKey.ORIGIN), bytes(message.payload))

        self._core.register_request_cb(_CHANNEL, topic, deliver)

    def hear_failures(self, handler: Callable[[str, str], None]) -> None:
        """Call ``handler(site, job id)`` at the server when a site says that a job's process failed there."""

        def filter_request(message: Message) -> None:
            kind = message.get_header(MessageHeaderKey.CHANNEL), message.get_header(MessageHeaderKey.TOPIC)
            if kind == (CellChannel.SERVER_MAIN, CellChannelTopic.REPORT_JOB_FAILURE):
                site, report = message.get_header(MessageHeaderKey.ORIGIN), message.payload
                told = report if isinstance(report, dict) else {}
                job_id, code = told.get(JobFailureMsgKey.JOB_ID), told.get(JobFailureMsgKey.CODE)
                if is_id(job_id) and isinstance(code, int) and code != JobReturnCode.SUCCESS:
                    handler(site, job_id)

        # for "*", as NVFlare's own: a filter for one topic would replace those
        self._core.add_incoming_request_filter("*", "*", filter_request)

    def traffic(self) -> ServerTraffic:
        """Bytes sent and received so far."""
        frames = other = 0.0
        for pool in (self._core.sent_msg_size_pool, self._core.received_msg_size_pool):
            for category, bins in pool.to_dict()["cat_data"].items():
                size = _MEBIBYTE * sum(entry["total"] for entry in bins if entry)
                if category.endswith(f":{_CHANNEL}:{FRAMES}"):
                    frames += size
                else:
                    other += size
        return ServerTraffic(frames, other)


class RunCell:
    """The end of a job's process, at a site or at the server.

    Args:
        fl_ctx: context of the job process.
        sites: the sites that may be addressed or heard, besides the server.
    """

    def __init__(self, fl_ctx: FLContext, sites: Iterable[str]):
        engine = fl_ctx.get_engine()
        job_id = fl_ctx.get_job_id()
        self._core = engine.get_cell().core_cell
        # NVFlare's simulator runs its one job in the server's own process
        simulated = job_id == SimulatorConstants.JOB_NAME
        self._addresses = {SERVER: SERVER if simulated else FQCN.join([SERVER, job_id])}
        for site in sites:
            client = engine.get_client_from_name(site)
            # a client that is gone has no address; posting to it is then lost like any other message
            self._addresses[site] = FQCN.join([client.get_fqcn() if client else site, job_id])
        self._names = {address: name for name, address in self._addresses.items()}
        _obey_the_server_alone(self._core)

    def post(self, target: str, topic: str, data: bytes) -> None:
        """Send to a site's job process, or to the server's; the message may be lost."""
        self._core.fire_and_forget(
            _CHANNEL, topic, self._addresses[target], Message(payload=data), optional=True
        )

    def ask_server(self, topic: str, data: bytes, timeout: float) -> bytes | None:
        """What the server's own process answers; None if it does not in time, or nothing, or too much."""
        message = Message(payload=data)
        reply = self._core.send_request(_CHANNEL, topic, SERVER, message, timeout=timeout, optional=True)
        if reply is None or reply.get_header(MessageHeaderKey.RETURN_CODE) != ReturnCode.OK:
            return None
        told = bytes(reply.payload) if _is_data(reply) and len(reply.payload) <= _MOST_ANSWER else b""
        return told or None

    def listen(self, topic: str, handler: Callable[[str, Any], None]) -> None:
        """Call ``handler(sender, data)`` for what comes in; others than the sites keep their full address."""

        def deliver(message: Message) -> None:
            origin = message.get_header(MessageHeaderKey.ORIGIN)
            if _is_data(message):
                handler(self._names.get(origin, origin), message.payload)

        self._core.register_request_cb(_CHANNEL, topic, deliver)


def _obey_the_server_alone(core: Any) -> None:
    """Refuse commands of other participants: NVFlare's processes obey everybody who reaches them.

    Any member could abort a run at another site, fire events there, and stop the cell of any process, the
    server's among them.
    """
    own = _participant(core.get_fqcn())

    def refuse(message: Message) -> Message | None:
        channel, topic = _purpose(message)
        origin = message.get_header(MessageHeaderKey.ORIGIN)
        event = own != SERVER and (channel, topic) == _EVENT
        if not (channel in _COMMANDS or event) or _participant(origin) in (own, SERVER):
            return None
        if (channel, topic) == (_NETWORK, _HEARTBEAT):  # of whoever is connected
            return None
        _log.warning("a command of %.100r is refused: %.100r", origin, topic)
        refusal: Message = make_reply(ReturnCode.UNAUTHENTICATED)
        return refusal

    core.add_incoming_request_filter("*", "*", refuse)


def _purpose(message: Message) -> tuple[str, str]:
    """Channel and topic of a message, or of the whole of which it is a piece: NVFlare filters no streams."""
    streamed = message.get_header(MessageHeaderKey.CHANNEL) == STREAM_CHANNEL
    keys = StreamHeaderKey if streamed else MessageHeaderKey
    return message.get_header(keys.CHANNEL), message.get_header(keys.TOPIC)


def _participant(address: str) -> str:
    return address.partition(".")[0]


def _is_data(message: Message) -> bool:
    """Whether a message brings bytes; NVFlare delivers whatever object its sender has put there."""
    return isinstance(message.payload, bytes | bytearray | memoryview)


def take_aux_messages(
    fl_ctx: FLContext, topic: str, handler: Callable[[str, Shareable, FLContext], Shareable]
) -> None:
    """Answer what other sites send by NVFlare's own ``send_aux_request``, which does not prove its sender.

    Args:
        fl_ctx: context of a job's process.
        topic: of the messages.
        handler: (topic, request, context) -> reply.

    Raises:
        ValueError: there is a handler of the topic already.
    """
    fl_ctx.get_engine().register_aux_message_handler(topic, handler)
