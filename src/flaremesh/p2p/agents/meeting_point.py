"""The meeting point beside the server: who may meet in which run, and the process that joins them."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from prometheus_client.metrics_core import Metric as Family

from flaremesh.issuing import read_key
from flaremesh.meeting import figures, ticket
from flaremesh.meeting.figures import Figures
from flaremesh.metrics.names import AgentMetric
from flaremesh.p2p.agents.agent import counter, gauge
from flaremesh.p2p.charter import Charter
from flaremesh.p2p.gate import order
from flaremesh.p2p.gate.request import Refused
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.record import RecordError

_log = logging.getLogger(__name__)

_AGAIN_SECONDS = 2.0  # before a meeting point that has ended is started again
_END_SECONDS = 5.0  # for one that is told to end


class TicketOffice:
    """Mints tickets for the neighbours of each run.

    Args:
        startup: the folder in the server's kit.
        mesh: its name.
        app: the folder of a job's app at the server, by the job's id.
        runs: whether a job runs.
        knows: whether a site is registered.
    """

    def __init__(
        self,
        startup: Path,
        mesh: str,
        app: Callable[[str], Path],
        runs: Callable[[str], bool],
        knows: Callable[[str], bool],
    ):
        files = startup_files(startup)
        self._key = read_key(files.key.read_bytes())
        self._certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        self._mesh, self._app, self._runs, self._knows = mesh, app, runs, knows

    def ticket(self, site: str, job: str, peer: bytes) -> bytes:
        """The ticket with which ``site`` may meet ``peer``; empty where the run's order has no such edge."""
        name = peer.decode("ascii", "replace")
        try:
            if not self._runs(job) or name not in order.read(self._app(job)).peers(site):
                return b""
        except Refused:
            return b""
        return self._mint(job, site, name)

    def trial_ticket(self, site: str, peer: bytes) -> bytes:
        """The ticket with which ``site`` may try how it meets ``peer``; empty where one is not registered.

        Who are neighbours each of the two knows from its kit.
        """
        name = peer.decode("ascii", "replace")
        if site == name or not (self._knows(site) and self._knows(name)):
            return b""
        return self._mint(ticket.TRIAL, site, name)

    def _mint(self, run: str, site: str, peer: str) -> bytes:
        return ticket.mint(self._mesh, run, (site, peer), self._key, self._certificate)


class MeetingProcess:
    """Keeps a meeting point running in a process of its own, which ends when this one does.

    Args:
        startup: the folder in the server's kit.
        charter: the server's.
        port: where it listens.

    Attributes:
        figures: what the process that runs has counted, a second ago at most; None until it has said so.
    """

    figures: Figures | None = None

    def __init__(self, startup: Path, charter: Charter, port: int):
        self._command = [
            *(sys.executable, "-P", "-m", "flaremesh.meeting", "--port", str(port)),
            *("--mesh", charter.mesh, "--root", str(startup_files(startup).root)),
            *(part for serial in charter.revoked for part in ("--revoked", serial)),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="meeting-point", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(_END_SECONDS)

    def _keep(self) -> None:
        while not self._stopping.is_set():
            # it reads its input, which ends with this process however that ends
            pipe = subprocess.PIPE
            with subprocess.Popen(self._command, stdin=pipe, stdout=pipe) as self._process:
                self._hear(self._process)
            code = self._process.returncode
            self.figures = None
            if not self._stopping.is_set():
                _log.error("the meeting point ended with %d; it is started again", code)
                self._stopping.wait(_AGAIN_SECONDS)

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        """Take its figures until it ends."""
        assert process.stdout is not None
        while line := process.stdout.readline(figures.LINE_BYTES):
            with suppress(RecordError):  # the next one may be whole
                self.figures = figures.read(line)


def families(counted: Figures | None) -> Iterator[Family]:
    """The metrics of a meeting point, without values as long as none is known."""
    yield gauge(AgentMetric.MEETING_PAIRS, counted.joined if counted else None)
    yield gauge(AgentMetric.MEETING_WAITING, counted.waiting if counted else None)
    yield counter(AgentMetric.MEETING_BYTES, counted.passed_bytes if counted else None)
    refusals = counter(AgentMetric.MEETING_REFUSALS)
    for reason, count in counted.refused.items() if counted else ():
        refusals.add_metric([reason], count)
    yield refusals
