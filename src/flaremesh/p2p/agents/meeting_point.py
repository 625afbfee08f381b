"""The meeting point beside the server: who may meet in which run, and the process that joins them."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from flaremesh.issuing import read_key
from flaremesh.meeting import ticket
from flaremesh.p2p.charter import Charter
from flaremesh.p2p.gate import order
from flaremesh.p2p.gate.request import Refused
from flaremesh.p2p.nvflare.startup import startup_files

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
    """

    def __init__(self, startup: Path, mesh: str, app: Callable[[str], Path], runs: Callable[[str], bool]):
        files = startup_files(startup)
        self._key = read_key(files.key.read_bytes())
        self._certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        self._mesh, self._app, self._runs = mesh, app, runs

    def ticket(self, site: str, job: str, peer: bytes) -> bytes:
        """The ticket with which ``site`` may meet ``peer``; empty where the run's order has no such edge."""
        name = peer.decode("ascii", "replace")
        try:
            if not self._runs(job) or name not in order.read(self._app(job)).peers(site):
                return b""
        except Refused:
            return b""
        return ticket.mint(self._mesh, job, (site, name), self._key, self._certificate)


class MeetingProcess:
    """Keeps a meeting point running in a process of its own, which ends when this one does.

    Args:
        startup: the folder in the server's kit.
        charter: the server's.
        port: where it listens.
    """

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
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
            code = self._process.wait()
            if not self._stopping.is_set():
                _log.error("the meeting point ended with %d; it is started again", code)
                self._stopping.wait(_AGAIN_SECONDS)
