"""When a site takes a checkpoint, and the thread that writes it beside the iterations."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Thread

from typing_extensions import override

from flaremesh.errors import FlaremeshError
from flaremesh.metrics.sink import Evaluation, Iteration, Logged, MetricsSink, Norms
from flaremesh.runtime.checkpoint import Checkpoint, Checkpoints
from flaremesh.runtime.cuts import Cuts
from flaremesh.runtime.history import Record
from flaremesh.runtime.tree import Tree

_log = logging.getLogger(__name__)


class Checkpointing(MetricsSink):
    """Takes checkpoints of a run; as a sink of the run, it keeps the records for them.

    Args:
        checkpoints: where they go.
        every: iterations between them; None for only those that ``at`` and ``follow`` ask for.
        history: the records so far.

    Attributes:
        written: the iteration of the last one that is written, 0 before.
        written_at: when that was, Unix time; None before.
        failures: how many could not be written since.
        failure: why the last one could not be written; None where it could.
        tell: called with the iteration of each one that is written.
    """

    def __init__(self, checkpoints: Checkpoints, every: int | None, history: Sequence[Record] = ()):
        self._checkpoints = checkpoints
        self._every = every
        self._asked: frozenset[int] = frozenset()
        self._told: tuple[Cuts, ...] = ()
        self._records = [*history]
        self._thread: Thread | None = None
        self.written = self.failures = 0
        self.written_at: float | None = None
        self.failure: str | None = None
        self.tell: Callable[[int], None] = lambda _: None

    @override
    def iteration(self, record: Iteration) -> None:
        self._records.append(record)

    @override
    def evaluation(self, record: Evaluation) -> None:
        self._records.append(record)

    @override
    def logged(self, record: Logged) -> None:
        self._records.append(record)

    @override
    def norms(self, record: Norms) -> None:
        """Not kept."""

    def forget_after(self, iteration: int) -> None:
        """As Checkpoints.discard_after."""
        self._checkpoints.discard_after(iteration)

    def at(self, iteration: int) -> None:
        """Take one after so many iterations."""
        self._asked |= {iteration}

    def follow(self, cuts: Cuts) -> None:
        """Take those of ``cuts``, from the first one on instead of those told before; any thread may tell."""
        if not self._told or self._told[-1] != cuts:
            self._told = (*self._told[-1:], cuts)

    def take_if_due(self, iteration: int, parts: Callable[[], Mapping[str, Tree]]) -> None:
        """Take a checkpoint, if one is due after so many iterations, and begin to write it.

        It waits for the one before to be written: so no site is two ahead of another, their last two have one
        in common, and memory holds one at most.

        Args:
            iteration: number of iterations that are done.
            parts: gives what is in it, which nobody writes to any more.
        """
        if not self._is_due(iteration):
            return
        started = time.perf_counter()
        self.wait()
        if (waited := time.perf_counter() - started) > 1:
            _log.warning(
                "iteration %d waited %.0f s for the last checkpoint to be written", iteration, waited
            )
        try:
            checkpoint = Checkpoint(iteration, parts(), tuple(self._records))
        except FlaremeshError as error:
            self._fail(iteration, error)
            return
        self._thread = Thread(target=self._write, args=(checkpoint,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def discard(self, iteration: int) -> None:
        """Give up a checkpoint that does not fit the run."""
        self._checkpoints.discard(iteration)

    def _is_due(self, iteration: int) -> bool:
        if iteration in self._asked or (self._every and iteration % self._every == 0):
            return True
        for cuts in reversed(self._told):
            if iteration >= cuts.first:
                return iteration in cuts
        return False

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            self._checkpoints.write(checkpoint)
        except Exception as error:  # noqa: BLE001  # the run goes on without a checkpoint
            self._fail(checkpoint.iteration, error)
        else:
            self.written, self.written_at = checkpoint.iteration, time.time()
            self.failures, self.failure = 0, None
            self.tell(self.written)

    def _fail(self, iteration: int, error: Exception) -> None:
        self.failures, self.failure = self.failures + 1, str(error)
        _log.warning("there is no checkpoint of iteration %d: %s", iteration, error)
