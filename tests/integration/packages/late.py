"""A component of a server's admin that holds up the start."""

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext

from flaremesh.waiting import wait_while

_MOST_SECONDS = 60.0
_POLL_SECONDS = 0.05


class Late(FLComponent):
    """Lets the server go on once it has answered somebody, before NVFlare knows the server's certificate."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.SYSTEM_START:
            server = fl_ctx.get_engine().server
            wait_while(lambda: server.my_own_token_signature is None, _MOST_SECONDS, _POLL_SECONDS)
