"""How commands are told to stop: Ctrl-C, SIGTERM, the end of the terminal."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import typer

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The command was told to stop.

    Attributes:
        exit_code: 128 plus the signal's number, as shells report it.
    """

    def __init__(self, number: int):
        super().__init__("Interrupted." if number == signal.SIGINT else "Terminated.")
        self.exit_code = 128 + number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first signal raises Interrupted, the second warns, the third ends the process at once."""
    heard = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard += 1
        if heard == 1:
            raise Interrupted(number)
        if heard > 2:
            os._exit(128 + number)
        typer.echo("Clearing up; once more ends this at once.", err=True)

    if threading.current_thread() is threading.main_thread():
        with _handlers(interrupt):
            yield
    else:
        yield


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """Run the block until a signal ends it, which is no error."""

    def leave(number: int, frame: FrameType | None) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # what is under way now is the clearing up
        raise KeyboardInterrupt

    with _handlers(leave), contextlib.suppress(KeyboardInterrupt):
        yield


class Stop(threading.Event):
    """Set by the first Ctrl-C or SIGTERM.

    Args:
        asks: a Ctrl-C is a question, until a second one answers it.

    Attributes:
        final: there is nothing to ask any more.
    """

    def __init__(self, *, asks: bool):
        super().__init__()
        self.final = False
        self._asks, self._asking = asks, False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.final = not self._asks or self.is_set() or number != signal.SIGINT
        self.set()
        if self._asking:
            raise KeyboardInterrupt

    def answers(self, ask: Callable[[], bool]) -> bool:
        """What ``ask`` returns; False if a signal comes instead of an answer, or has come before."""
        if self.final:
            return False
        self._asking = True
        try:
            return ask()
        except (KeyboardInterrupt, typer.Abort):
            return False
        finally:
            self._asking, self.final = False, True


@contextlib.contextmanager
def stopped_by_signals(*, asks: bool, final: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """An event that Ctrl-C or SIGTERM sets; what comes after its `final` one is handled as before.

    Args:
        asks: see Stop.
        final: called with the final one.
    """
    stop = Stop(asks=asks)
    numbers = (signal.SIGINT, signal.SIGTERM)

    def hear(number: int, frame: FrameType | None) -> None:
        try:
            stop.hear(number, frame)
        finally:
            if stop.final:
                final()
                for other, handler in before.items():
                    signal.signal(other, handler)

    before = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as nohup does
    wanted = [number for number in _SIGNALS if not (ignored and number is signal.SIGHUP)]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
