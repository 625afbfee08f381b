"""A script in a process of its own, which is asked for one answer after the other.

The two ends speak through a socket that lies in a folder which no other user may enter. The script's process
ends itself, and all that it has started, once its run's end of the socket is closed: also where the run's
process was killed.
"""

import logging
import math
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import IO, Final

from flaremesh.errors import FlaremeshError
from flaremesh.printable import printable
from flaremesh.problems.script_messages import CHANNEL_VARIABLE, RANK, SITE_VARIABLE, Message

HOST: Final = "flaremesh.p2p.nvflare.script_process"
"""What runs in a script's process, with NVFlare's Client API for the script; nothing here imports it."""

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2  # so soon is it noticed that a process has ended
_STOPPED_SECONDS = 10.0  # for somebody who stops a process and lets it go on
_STOPPED, _ENDED = frozenset("Tt"), frozenset("ZX")  # states of Linux's processes
_ROOT_CAUSE = re.compile(r"^Root Cause.*?^\s*rank\s*: (\d{1,6})\b", re.DOTALL | re.MULTILINE)
_LAST_LINES = 20
_MOST_PRINTED = 1200  # characters of them, so that what is told of a failed site holds their end
_GRACE_SECONDS = 5.0  # for what a script does after its last model, such as writing a file


class ScriptError(FlaremeshError):
    """A script does not answer, or not what it should; the message says what it printed last."""


@dataclass
class _Process:
    """A script's process, and this end of what leads there.

    Attributes:
        running: the process; with all that it starts it is one group, which ends together.
        listener: where it calls.
        folder: in which the socket lies.
        connection: None until it has called.
        asked: whether it is to answer.
    """

    running: "subprocess.Popen[str]"
    listener: socket.socket
    folder: str
    connection: Connection | None = None
    asked: bool = False

    def ranks(self) -> dict[str, str]:
        """The state of each rank that has begun, as Linux has it; "" where its process is no more."""
        return {
            file.name.rpartition("-")[2]: _state_of(file) for file in Path(self.folder).glob(RANK.format("*"))
        }

    def end(self) -> None:
        """End it; it gets time for what it does after its last model, unless it is still to answer."""
        if self.connection is not None:
            if not self.asked:
                with suppress(OSError, subprocess.TimeoutExpired):
                    Message("stop").send(self.connection)
                    self.running.wait(_GRACE_SECONDS)
            self.connection.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.running.pid, signal.SIGKILL)
        self.running.wait()
        self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class ScriptRun:
    """A script that runs, until nobody uses this any more.

    Args:
        title: of the script, for messages.
        site: name of the site.
        command: starts the process.
        timeout: seconds that it may take for an answer.

    Raises:
        ScriptError: the process cannot be started.
    """

    def __init__(self, title: str, site: str, command: Sequence[str], timeout: float):
        self._title, self._timeout = title, timeout
        self._ready = False  # has it called flare.init()?
        self._answers = 0
        self._moved = time.monotonic()  # when no rank was seen stopped
        folder = tempfile.mkdtemp(prefix="flaremesh-script-")
        listener = socket.socket(socket.AF_UNIX)
        path = str(Path(folder, "run"))
        told = {CHANNEL_VARIABLE: path, SITE_VARIABLE: site}
        try:
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(_LOOK_SECONDS)
            process = subprocess.Popen(
                command,
                env={**os.environ, **told, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            listener.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise ScriptError(f"{title} cannot be started: {error}") from error
        self._process = _Process(process, listener, folder)
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        arguments = (process.stdout, self._lines, site)
        self._reader = Thread(target=_read, args=arguments, name="script-output", daemon=True)
        self._reader.start()
        self._end = weakref.finalize(self, self._process.end)  # when the interpreter ends, at the latest

    def ask(self, message: Message) -> Message:
        """The script's answer to a message.

        Raises:
            ScriptError: it has ended, has failed, or does not answer in time; it is ended.
        """
        self._process.asked = True
        self._moved = time.monotonic()
        deadline = time.monotonic() + self._timeout
        try:
            connection = self._connected(deadline)
            message.send(connection)
            while True:
                while not connection.poll(_LOOK_SECONDS):
                    self._require_alive(deadline, connection)
                answer = Message.receive(connection)
                if answer.kind != "ready":
                    break
                self._ready = True
        except BlockingIOError as error:
            raise self._late() from error
        except (EOFError, OSError) as error:
            raise self._ended() from error
        except (ValueError, TypeError, LookupError) as error:
            self._end()
            raise ScriptError(f"{self._title} sent what is no answer: {printable(error, 300)}") from error
        if answer.kind == "failed":
            seen = self._ended_first()
            self._wait()  # it still prints where
            self._end()
            why = printable(answer.said.get("why"), 300)
            raise ScriptError(f"{self._first(seen)}{self._title} failed: {why}{self._printed()}")
        self._process.asked = False
        self._answers += 1
        return answer

    def ranks(self) -> int:
        """How many ranks have begun and go on."""
        return sum(bool(state) and state not in _STOPPED | _ENDED for state in self._process.ranks().values())

    def _connected(self, deadline: float) -> Connection:
        while self._process.connection is None:
            try:
                accepted, _ = self._process.listener.accept()
            except TimeoutError:
                self._require_alive(deadline)
            else:
                # no message waits longer for a process that does not take it, or has sent only a part
                patience = struct.pack("ll", math.ceil(self._timeout), 0)
                for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                    accepted.setsockopt(socket.SOL_SOCKET, option, patience)
                self._process.connection = Connection(accepted.detach())
        return self._process.connection

    def _require_alive(self, deadline: float, connection: Connection | None = None) -> None:
        if self._process.running.poll() is not None and not (connection and connection.poll(0)):
            raise self._ended()
        if time.monotonic() > deadline:
            raise self._late()
        stopped = sorted(rank for rank, state in self._process.ranks().items() if state in _STOPPED)
        if not stopped:
            self._moved = time.monotonic()
        elif time.monotonic() > self._moved + _STOPPED_SECONDS:
            self._end()
            raise ScriptError(
                f"{_ranks(stopped)} of {self._title} was stopped by a signal, for {_STOPPED_SECONDS:g} s"
                f"{self._printed()}"
            )

    def _late(self) -> ScriptError:
        connection = self._process.connection
        called = self._ready or (connection is not None and connection.poll(0))
        self._end()
        what = "does not answer" if called else "does not call flare.init()"
        return ScriptError(
            f"{self._title} {what}, for {self._timeout:g} s; if it needs longer, write a greater timeout "
            f"in run.problem{self._printed()}"
        )

    def _wait(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.running.wait(_GRACE_SECONDS)

    def _ended_first(self) -> str:
        """Which of several ranks have ended, while others have not."""
        states = self._process.ranks()
        gone = sorted(rank for rank, state in states.items() if not state or state in _ENDED)
        return f"{_ranks(gone)} ended first: " if gone and len(gone) < len(states) else ""

    def _first(self, seen: str) -> str:
        """That, or what torchrun says: it may end the others before anybody sees which was first."""
        self._reader.join(timeout=1.0)
        found = _ROOT_CAUSE.search("\n".join(self._lines))
        return f"{_ranks([found[1]])} ended first: " if found else seen

    def _ended(self) -> ScriptError:
        seen = self._ended_first()
        self._wait()
        status = self._process.running.poll()
        self._end()
        if status is None:
            what = "has closed its connection"
        elif status:
            what = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
        elif not self._ready:
            what = "ended without a call of flare.init(): it is no script for NVFlare's Client API"
        else:
            what = f"ended after {self._answers} answers: let it go on while flare.is_running()"
        return ScriptError(f"{self._first(seen)}{self._title} {what}{self._printed()}")

    def _printed(self) -> str:
        self._reader.join(timeout=1.0)
        lines = "\n".join(printable(line, 300) for line in [*self._lines] if line.strip())
        return f"; it printed last:\n{lines[-_MOST_PRINTED:]}" if lines else "; it printed nothing"


def command_of(launch: str | None, script: Path, arguments: Sequence[str]) -> list[str]:
    """The command that runs a script within its host, by ``launch`` where that is given."""
    start = [sys.executable, "-m"]
    if launch:  # several launches on one machine would take the same port
        start += ["torch.distributed.run", "--standalone", *shlex.split(launch)[1:], "-m"]
    return [*start, HOST, str(script), *arguments]


def _ranks(numbers: Sequence[str]) -> str:
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def _state_of(file: Path) -> str:
    """The state of a process whose id is in a file: a letter of proc(5), or "" if it is no more."""
    try:
        told = Path("/proc", str(int(file.read_text())), "stat").read_text()
    except OSError:
        return ""
    except ValueError:  # it is being written
        return "R"
    return told.rpartition(")")[2].split()[0]


def _read(output: IO[str], lines: "deque[str]", site: str) -> None:
    with suppress(ValueError), output:  # closed meanwhile
        for line in output:
            lines.append(line.rstrip("\n"))
            _log.info("%s: %s", site, printable(line, 500))
