"""What the owner of a site's kit does from inside his own process."""

from typing import Any, TypeAlias

from intruder import Intruder
from nvflare.apis.fl_constant import CellMessageAuthHeaderKey
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.cellnet.defs import ReturnCode as CellReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message

CHANNEL = "flaremesh"
_FORGED = "forged"
_LOGIN = (
    CellMessageAuthHeaderKey.CLIENT_NAME,
    CellMessageAuthHeaderKey.TOKEN,
    CellMessageAuthHeaderKey.TOKEN_SIGNATURE,
)


Login: TypeAlias = tuple[str, str, str]
"""What the server gives a site that logs in: its name, a token, and the server's signature of both."""


def log_in_again(site: Intruder) -> Login:
    """Log in a second time; returns the first login, which the server has forgotten, though it signed it."""
    client = site.client
    first = client.client_name, client.token, client.token_signature
    with site.engine.new_context() as fl_ctx:
        client.token = None
        client.register(fl_ctx)
    return first


def post(
    site: Intruder,
    target: str,
    topic: str,
    payloads: list[Any],
    origin: str | None = None,
    login: Login | None = None,
    channel: str = CHANNEL,
) -> None:
    """Send messages under any name.

    Args:
        site: the sender.
        target: address of a cell.
        topic: of the channel.
        payloads: the messages.
        origin: the address that they are to come from; None: the true one.
        login: the login to show; None: the own one.
        channel: flaremesh's, or one of NVFlare's.
    """
    forged = {}
    if origin:
        forged[MessageHeaderKey.ORIGIN] = origin
    if login:
        forged |= dict(zip(_LOGIN, login, strict=True))
    site.core.add_outgoing_request_filter(
        "*", "*", _forge
    )  # after NVFlare's own, of which each login adds one
    for payload in payloads:
        message = Message({_FORGED: forged}, payload)
        site.core.fire_and_forget(channel, topic, target, message, optional=True)


def _forge(message: Message) -> None:
    for name, value in message.get_header(_FORGED, {}).items():
        message.set_header(name, value)


def answer_with(site: Intruder, topic: str, payload: Any) -> None:
    """Answer what other agents ask with something else than bytes."""
    site.core.register_request_cb(CHANNEL, topic, lambda message: make_reply(CellReturnCode.OK, body=payload))


def ask(site: Intruder, target: str, topic: str, payload: Any) -> Any:
    """What another process answers."""
    reply = site.core.send_request(CHANNEL, topic, target, Message(payload=payload), timeout=5.0)
    return reply.payload
