"""Waiting for a condition that others bring about."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_while(pending: Callable[[], T], seconds: float, poll: float) -> T:
    """Call ``pending`` until it returns something falsy.

    Args:
        pending: returns what is still missing; it may raise to end the waiting.
        seconds: for how long to wait.
        poll: seconds between two calls.

    Returns:
        what it returned last: falsy unless the time was too short.
    """
    deadline = time.monotonic() + seconds
    while (left := pending()) and time.monotonic() < deadline:
        time.sleep(poll)
    return left
