"""Waiting for what comes about elsewhere."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_while(pending: Callable[[], T], seconds: float, poll: float) -> T:
    """Ask again and again what is still to come, until nothing is.

    Args:
        pending: returns what is not there yet, something falsy once all is; it may raise to end the waiting.
        seconds: for how long.
        poll: seconds between two questions.

    Returns:
        the last answer: falsy unless the time was too short.
    """
    deadline = time.monotonic() + seconds
    while (left := pending()) and time.monotonic() < deadline:
        time.sleep(poll)
    return left
