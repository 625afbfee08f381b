"""When a site takes a checkpoint, and the thread that writes it beside the iterations."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Thread

from typing_extensions import override

from flaremesh.errors import FlaremeshError
from flaremesh.metrics.sink import Evaluation, Iteration, MetricsSink, Norms
from flaremesh.runtime.checkpoint import Checkpoint, Checkpoints
from flaremesh.runtime.history import Record
from flaremesh.runtime.tree import Tree

_log = logging.getLogger(__name__)

_MOST_ASKED = 64


class Checkpointing(MetricsSink):
    """Takes checkpoints of a run; as a sink of the run, it keeps the records for them.

    Args:
        checkpoints: where they go.
        every: iterations between them; None for only those that ``at`` asks for.
        history: the records so far.

    Attributes:
        written: the iteration of the last one that is written, 0 before.
        failure: why the last one could not be written; None where it could.
        tell: called with the iteration of each one that is written.
    """

    def __init__(self, checkpoints: Checkpoints, every: int | None, history: Sequence[Record] = ()):
        self._checkpoints = checkpoints
        self._every = every
        self._asked: frozenset[int] = frozenset()
        self._done = 0
        self._records = [*history]
        self._thread: Thread | None = None
        self.written = 0
        self.failure: str | None = None
        self.tell: Callable[[int], None] = lambda _: None

    @override
    def iteration(self, record: Iteration) -> None:
        self._records.append(record)

    @override
    def evaluation(self, record: Evaluation) -> None:
        self._records.append(record)

    @override
    def norms(self, record: Norms) -> None:
        """Not kept."""

    def forget_after(self, iteration: int) -> None:
        """As Checkpoints.discard_after."""
        self._checkpoints.discard_after(iteration)

    def at(self, iteration: int) -> None:
        """Take one after so many iterations, unless they are done already; any thread may ask.

        So many that are still to come are remembered: they are asked for by somebody else.
        """
        to_come = {asked for asked in self._asked if asked > self._done}
        if iteration > self._done and len(to_come) < _MOST_ASKED:
            self._asked = frozenset(to_come | {iteration})

    def take_if_due(self, iteration: int, parts: Callable[[], Mapping[str, Tree]]) -> None:
        """Take a checkpoint, if one is due after so many iterations, and begin to write it.

        It waits for the one before to be written: so no site is two ahead of another, their last two have one
        in common, and memory holds one at most.

        Args:
            iteration: number of iterations that are done.
            parts: gives what is in it, which nobody writes to any more.
        """
        self._done = iteration
        if not (iteration in self._asked or (self._every and iteration % self._every == 0)):
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

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            self._checkpoints.write(checkpoint)
        except Exception as error:  # noqa: BLE001  # the run goes on without a checkpoint
            self._fail(checkpoint.iteration, error)
        else:
            self.written, self.failure = checkpoint.iteration, None
            self.tell(self.written)

    def _fail(self, iteration: int, error: Exception) -> None:
        self.failure = str(error)
        _log.warning("there is no checkpoint of iteration %d: %s", iteration, error)
