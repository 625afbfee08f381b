"""The way to the server of a mesh while a run is followed: it is looked for again when it breaks."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from flaremesh.deploy.runs.session import AdminSession, ServerLost, connect
from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.topology.schema import Topology

T = TypeVar("T")

RECONNECT_SECONDS: Final = 60.0  # for a laptop that wakes up, or a VPN that comes back
_RETRY_SECONDS = 1.0


class Connection:
    """A session with the server, and another in its place once it is lost.

    Args:
        topology: the mesh and its run.
        target: where it is up.
        mesh: its folder.
        seconds: for how long a lost server is looked for; by default the run's patience where it waits for
            whom it loses, and RECONNECT_SECONDS where it does not.

    Attributes:
        session: the one that stands.
        run: what is followed.
    """

    session: AdminSession

    def __init__(self, topology: Topology, target: Target, mesh: Path, seconds: float | None = None):
        self.run = topology.run
        self._topology, self._target, self._mesh, self._seconds = topology, target, mesh, seconds
        self._open = ExitStack()

    @property
    def patient(self) -> bool:
        """The run outlives the server's process."""
        return self.run.on_loss != "fail"

    def __enter__(self) -> Self:
        self.session = self._open.enter_context(self._connected())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def ask(self, run_id: str, question: Callable[[AdminSession], T], stop: threading.Event) -> T:
        """What the server answers, also if it has to be looked for.

        Raises:
            DeployError: it does not answer in time, or ``stop`` is set before.
        """
        while True:
            try:
                return question(self.session)
            except ServerLost:
                if not self.renew(run_id, stop):
                    raise

    def renew(self, run_id: str, stop: threading.Event, warn: Callable[[str], None] = lambda _: None) -> bool:
        """Look for the server; False once ``stop`` is set, or the run has ended with the server's process.

        Args:
            run_id: id of the run.
            stop: set it to look no longer.
            warn: called once, if the server is not found at once.

        Raises:
            DeployError: it does not answer in time.
        """
        self._open.close()
        patience = self.run.patience if self.patient else RECONNECT_SECONDS
        seconds = patience if self._seconds is None else self._seconds
        deadline, told = time.monotonic() + seconds, False
        while not stop.is_set():
            try:
                server = self._target.participants()[0]
                if not (self.patient or server.running or server.elsewhere):
                    return False
                self.session = self._open.enter_context(self._connected())
                self.session.sites()
                return True
            except DeployError as error:
                self._open.close()
                if time.monotonic() > deadline:
                    raise DeployError(
                        f"the server cannot be reached from here any more: {error}. The run {run_id} was "
                        f"left alone: `flaremesh attach FILE {run_id}` follows it once the server answers, "
                        "and the sites keep its results."
                    ) from None
                if not told:
                    warn(f"{error}. It is looked for, for {seconds:g} s.")
                    told = True
            stop.wait(_RETRY_SECONDS)
        return False

    @contextmanager
    def _connected(self) -> Iterator[AdminSession]:
        with self._target.server() as server, connect(self._topology, self._mesh, server) as session:
            yield session
