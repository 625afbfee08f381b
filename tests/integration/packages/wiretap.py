"""Writes down what reaches the server: everything a site sends to anybody but over direct links."""

from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey

HEARD = "heard.txt"
"""In the server's workspace: sender, channel and topic of each message, one a line."""


class Wiretap(FLComponent):
    """Of the server."""

    def handle_event(self, event_type, fl_ctx):
        if event_type == EventType.SYSTEM_START:
            self._file = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir()) / HEARD
            self._file.touch()
            fl_ctx.get_engine().get_cell().core_cell.add_incoming_filter("*", "*", self._hear)

    def _hear(self, message):
        keys = (MessageHeaderKey.ORIGIN, MessageHeaderKey.CHANNEL, MessageHeaderKey.TOPIC)
        with self._file.open("a") as file:
            file.write(" ".join(str(message.get_header(key)) for key in keys) + "\n")
