"""Messages between the processes of a mesh, with a sender that the server has authenticated.

NVFlare's aux messages name a sender that the sender itself wrote. The ORIGIN of a cell message is checked by
the server against the token of the client that sent it, so it is used here; bytes are passed through as they
are, where an array would become a download.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.private.defs import CellChannel, CellChannelTopic, CellMessageHeaderKeys, JobFailureMsgKey
from nvflare.private.fed.simulator.simulator_const import SimulatorConstants

_CHANNEL: Final = "flaremesh"
SERVER: Final = FQCN.ROOT_SERVER
FRAMES: Final = "frames"
PROGRESS: Final = "progress"
PROBE: Final = "probe"
METRICS: Final = "metrics"


def hear_failures(cell: Any, handler: Callable[[str, str], None]) -> None:
    """Call ``handler(site, job id)`` at the server when a site says that a job's process failed there."""

    def filter_request(message: Message) -> None:
        kind = message.get_header(MessageHeaderKey.CHANNEL), message.get_header(MessageHeaderKey.TOPIC)
        if kind == (CellChannel.SERVER_MAIN, CellChannelTopic.REPORT_JOB_FAILURE):
            report = message.payload
            if report[JobFailureMsgKey.CODE] != JobReturnCode.SUCCESS:
                handler(message.get_header(MessageHeaderKey.ORIGIN), report[JobFailureMsgKey.JOB_ID])

    # for "*", as NVFlare's own: a filter for one topic would replace those
    cell.core_cell.add_incoming_request_filter("*", "*", filter_request)


def ask(cell: Any, site: str, topic: str, timeout: float) -> bytes | None:
    """What another site's process answers, through the server; None if it does not in time.

    Args:
        cell: this site's cell.
        site: whom to ask.
        topic: what about.
        timeout: seconds.
    """
    reply = cell.core_cell.send_request(
        _CHANNEL, topic, site, Message(payload=b""), timeout=timeout, optional=True
    )
    if reply is None or reply.get_header(MessageHeaderKey.RETURN_CODE) != ReturnCode.OK:
        return None
    return bytes(reply.payload)


def answer(cell: Any, topic: str, handler: Callable[[str], bytes]) -> None:
    """Answer what other sites `ask` with ``handler(site)``; must be quick."""

    def reply(message: Message) -> Message:
        return make_reply(ReturnCode.OK, body=handler(message.get_header(MessageHeaderKey.ORIGIN)))

    cell.core_cell.register_request_cb(_CHANNEL, topic, reply)


def tell(cell: Any, topic: str, data: bytes) -> None:
    """Send to the server's process; may be lost."""
    cell.core_cell.fire_and_forget(_CHANNEL, topic, SERVER, Message(payload=data), optional=True)


def hear(cell: Any, topic: str, handler: Callable[[str, bytes], None]) -> None:
    """Call ``handler(site, data)`` at the server for what sites, but not their runs, `tell` it."""

    def deliver(message: Message) -> None:
        site = message.get_header(MessageHeaderKey.ORIGIN)
        # NVFlare binds the name to the certificate, and the origin to the name only of a site that it knows
        if site != message.get_header(CellMessageHeaderKeys.CLIENT_NAME):
            return
        if isinstance(message.payload, bytes | bytearray | memoryview):  # it may be any object
            handler(site, bytes(message.payload))

    cell.core_cell.register_request_cb(_CHANNEL, topic, deliver)


class RunCell:
    """This process's end.

    Args:
        fl_ctx: context of the job process.
        sites: the sites that may be addressed or heard, besides the server.
    """

    def __init__(self, fl_ctx: FLContext, sites: Iterable[str]):
        engine = fl_ctx.get_engine()
        job_id = fl_ctx.get_job_id()
        self._cell = engine.get_cell().core_cell
        # NVFlare's simulator runs its one job in the server's own process
        simulated = job_id == SimulatorConstants.JOB_NAME
        self._addresses = {SERVER: SERVER if simulated else FQCN.join([SERVER, job_id])}
        for site in sites:
            client = engine.get_client_from_name(site)
            # a client that is gone has no address; posting to it is then lost like any other message
            self._addresses[site] = FQCN.join([client.get_fqcn() if client else site, job_id])
        self._names = {address: name for name, address in self._addresses.items()}

    def post(self, target: str, topic: str, data: bytes) -> None:
        """Send towards a site, or to the server's job process; may be lost."""
        self._cell.fire_and_forget(
            _CHANNEL, topic, self._addresses[target], Message(payload=data), optional=True
        )

    def listen(self, topic: str, handler: Callable[[str, Any], None]) -> None:
        """Call ``handler(sender, data)`` for what comes in; others keep their full address."""

        def deliver(message: Message) -> None:
            origin = message.get_header(MessageHeaderKey.ORIGIN)
            handler(self._names.get(origin, origin), message.payload)

        self._cell.register_request_cb(_CHANNEL, topic, deliver)
