"""What a process does when it is told to stop."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

_log = logging.getLogger(__name__)


def on_termination(stop: Callable[[], None], seconds: float) -> None:
    """Let SIGTERM and SIGINT stop the process in an orderly way; to be called in the main thread.

    The first signal runs ``stop`` in a thread of its own, so that the main thread goes on; when it returns,
    the process ends. A second signal, an exception in ``stop``, or ``seconds`` without an end, ends it at
    once.

    Args:
        stop: ends all that the process does.
        seconds: time for ``stop``.
    """
    asked = threading.Event()

    def run() -> None:
        try:
            stop()
        except Exception:  # noqa: BLE001  (whatever goes wrong, the process was told to end)
            _log.exception("the orderly stop failed")
            os._exit(1)
        os._exit(0)

    def expire() -> None:
        _log.error("not stopped after %g s: ending now", seconds)
        os._exit(1)

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()
        deadline = threading.Timer(seconds, expire)
        deadline.daemon = True
        deadline.start()
        threading.Thread(target=run, name="stop", daemon=True).start()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
