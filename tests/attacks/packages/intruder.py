"""A component of a participant whose owner attacks: it does what a test tells it, from inside the process.

It changes nothing by itself. Whoever holds a kit can load such a component: the kit's folder is his own.
"""

import importlib
import threading
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any, Final

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext

SOCKET: Final = "intruder.socket"
"""In the participant's workspace: takes module, function, arguments; answers if it went well, and what."""


class Intruder(FLComponent):
    """Calls ``module.function(self, **arguments)`` for what comes in.

    Attributes:
        engine: NVFlare's, of this process.
        client: NVFlare's federated client; None at the server.
        workspace: of the participant.
    """

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        first = EventType.SYSTEM_BOOTSTRAP, EventType.SYSTEM_START
        if event_type in first and not hasattr(self, "workspace"):
            self.engine = fl_ctx.get_engine()
            self.client = fl_ctx.get_prop(FLContextKey.SITE_OBJ)
            self.workspace = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
            (self.workspace / SOCKET).unlink(missing_ok=True)
            listener = Listener(str(self.workspace / SOCKET))
            threading.Thread(target=self._obey, args=[listener], daemon=True).start()

    @property
    def core(self) -> Any:
        """The process's cell, as NVFlare has it inside."""
        cell = self.engine.get_cell() if self.client is None else self.client.cell
        return cell.core_cell

    def _obey(self, listener: Listener) -> None:
        while True:
            with listener.accept() as told:
                self._answer(told)

    def _answer(self, told: Connection) -> None:
        module, function, arguments = told.recv()
        try:
            result = getattr(importlib.import_module(module), function)(self, **arguments)
            told.send((True, result))
        except Exception as error:  # noqa: BLE001  (the test shows it)
            told.send((False, repr(error)))
