"""Training a torch module: subclass one of these and build model and data in the constructor."""

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from torch import Tensor
from torch.nn import Module

from flaremesh.links import Key
from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.p2p.executors.algorithm_executor import AlgorithmExecutor
from flaremesh.problems.module import Batch, ModuleProblem
from flaremesh.problems.protocol import Problem, SiteContext
from flaremesh.runtime.vectors import payload_of, vector_of

_START = -2  # iteration number of the message that carries the initial point


class ModuleExecutor(AlgorithmExecutor):
    """Base of the executors below.

    Args:
        model: the module; unless ``extra`` says ``same_start: False``, all sites start from the parameters
            that the first site's module has.
        loss: (outputs, targets) -> mean loss over the batch.
        train_dataloader: batches of (inputs, targets).
        test_dataloader: the same for evaluation.
        val_dataloader: used for evaluation where there is no test_dataloader.
        sync_timeout: see SyncAlgorithmExecutor.

    Attributes:
        train_loss_sequence: (seconds, loss on the mini-batch) of every iteration; saved as a .pt file.
        test_loss_sequence: (seconds, loss) of every evaluation; saved as a .pt file.
    """

    algorithm_name: ClassVar[str]

    def __init__(
        self,
        model: Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        train_dataloader: Iterable[Batch],
        test_dataloader: Iterable[Batch] | None = None,
        val_dataloader: Iterable[Batch] | None = None,
        sync_timeout: float | None = None,
    ) -> None:
        super().__init__(self.algorithm_name, sync_timeout=sync_timeout)
        self.model = model
        self.loss = loss
        self.train_dataloader = train_dataloader
        self.test_dataloader = test_dataloader
        self.val_dataloader = val_dataloader
        self.train_loss_sequence: list[tuple[float, float]] = []
        self.test_loss_sequence: list[tuple[float, float]] = []
        self._seconds = 0.0

    def iteration(self, record: Iteration) -> None:
        """See MetricsSink.iteration."""
        self._seconds += record.seconds
        if record.loss is not None:
            self.train_loss_sequence.append((self._seconds, record.loss))

    def evaluation(self, record: Evaluation) -> None:
        """See MetricsSink.evaluation."""
        if "loss" in record.metrics:
            self.test_loss_sequence.append((self._seconds, record.metrics["loss"]))

    def _make_problem(self, site: SiteContext) -> Problem:
        test = self.test_dataloader or self.val_dataloader or ()
        problem = ModuleProblem(site, self.model, self.loss, self.train_dataloader, test)
        if self.config.extra.get("same_start", True):
            self._share_start(problem)
        return problem

    def _share_start(self, problem: ModuleProblem) -> None:
        """Start where the parent starts: every site built its own model, from its own random numbers."""
        assert self._link is not None, "the controller configures a site before it runs"
        if parent := self.config.parent:
            key = Key(_START, 0, parent)
            received = self._link.receive([key], self.peer_timeout)
            problem.start_at(vector_of(received[key], problem.initial(), parent))
        start = payload_of(problem.initial())
        for child in self.config.children:
            self._link.send(child, Key(_START, 0, self.client_name), [start])

    def _post_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        for name in ("train_loss_sequence", "test_loss_sequence"):
            torch.save(torch.tensor(getattr(self, name)), self._run_dir(fl_ctx) / f"{name}.pt")


class DGDExecutor(ModuleExecutor):
    """Distributed gradient descent, combine then adapt: the gradient is taken at the mixed point."""

    algorithm_name = "dgd-cta"


class GTExecutor(ModuleExecutor):
    """Gradient tracking."""

    algorithm_name = "gradient-tracking"


class GTADAMExecutor(ModuleExecutor):
    """GTAdam: gradient tracking with adaptive moments; ``extra`` holds beta1, beta2 and epsilon."""

    algorithm_name = "gtadam"
