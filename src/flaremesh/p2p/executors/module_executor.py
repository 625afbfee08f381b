"""Training a torch module: what the executors of all algorithms have in common."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from torch import Tensor
from torch.nn import Module

from flaremesh.algorithms import Vectors
from flaremesh.links import Key
from flaremesh.metrics.sink import Evaluation, Iteration, MetricsSink, Norms
from flaremesh.p2p.executors.algorithm_executor import AlgorithmExecutor
from flaremesh.p2p.executors.by_value import flat, set_all
from flaremesh.p2p.executors.ported import MESSAGES, STEPS, overrides
from flaremesh.p2p.extra import flag
from flaremesh.p2p.utils.metrics import compute_loss_over_dataset
from flaremesh.p2p.utils.utils import get_device
from flaremesh.problems.flat import joined
from flaremesh.problems.module import Batch, ModuleProblem
from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.runtime.vectors import payload_of, vector_of

_START = -2  # iteration number of the message that carries the initial point


class ModuleExecutor(AlgorithmExecutor):
    """Base of the executors that train.

    Whatever is None in the constructor has to be set by ``_pre_algorithm_run`` at the latest.

    Args:
        model: the module; unless ``extra`` says ``same_start: False``, all sites start from the parameters
            that the first site's module has.
        loss: (outputs, targets) -> mean loss over the batch.
        train_dataloader: batches of (inputs, targets).
        test_dataloader: the same for evaluation.
        val_dataloader: used for evaluation where there is no test_dataloader.
        sync_timeout: see SyncAlgorithmExecutor.

    Attributes:
        device: where to compute.
        train_loss_sequence: (seconds, loss on the mini-batch) of every iteration; saved as a .pt file.
        test_loss_sequence: (seconds, loss) of every evaluation; saved as a .pt file.
    """

    algorithm_name: ClassVar[str]
    _hooks: ClassVar[frozenset[str]] = MESSAGES | STEPS

    def __init__(
        self,
        model: Module | None = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        train_dataloader: Iterable[Batch] | None = None,
        test_dataloader: Iterable[Batch] | None = None,
        val_dataloader: Iterable[Batch] | None = None,
        sync_timeout: float | None = None,
    ) -> None:
        super().__init__(self.algorithm_name, sync_timeout=sync_timeout)
        self.device: torch.device | str = get_device()
        self.model = model.to(self.device) if isinstance(model, Module) else model
        self.loss = loss.to(self.device) if isinstance(loss, Module) else loss
        self.train_dataloader = train_dataloader
        self.test_dataloader = test_dataloader
        self.val_dataloader = val_dataloader
        self.train_loss_sequence: list[tuple[float, float]] = []
        self.test_loss_sequence: list[tuple[float, float]] = []

    def _algorithm_name(self) -> str:
        return self.algorithm_name

    def _authorize(self, fl_ctx: FLContext) -> None:
        """The job names no class."""

    def _own_sink(self) -> MetricsSink:
        return _LossSequences(self.train_loss_sequence, self.test_loss_sequence)

    def _pre_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
        if overrides(self, "run_algorithm") and self.model is not None and self.loss is not None:
            # nothing else evaluates what a loop of the subclass's own starts from
            for losses, batches in (
                (self.train_loss_sequence, self.train_dataloader),
                (self.test_loss_sequence, self.test_dataloader),
            ):
                if batches is not None:
                    loss = compute_loss_over_dataset(self.model, self.loss, batches, self.device)
                    losses.append((0.0, loss))

    def _prepare_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        self._share_start()  # before a subclass copies what it starts from
        super()._prepare_run(fl_ctx, shareable, abort_signal)
        self._share_start()

    def _make_problem(self, site: SiteContext) -> Problem:
        if self.model is None or self.loss is None or self.train_dataloader is None:
            missing = next(
                name for name in ("model", "loss", "train_dataloader") if getattr(self, name) is None
            )
            raise ProblemError(
                f"{type(self).__name__} of {site.name} has no {missing}: hand it to super().__init__, "
                "or set it in _pre_algorithm_run"
            )
        test = self.val_dataloader if self.test_dataloader is None else self.test_dataloader
        self._share_start()
        return ModuleProblem(
            site, self.model, self.loss, self.train_dataloader, () if test is None else test, str(self.device)
        )

    def _share_start(self) -> None:
        """Start where the parent starts: every site built its own model, from its own random numbers.

        Again, where a subclass has put another model in the place of the one that was shared.
        """
        part, parent, model = self._flaremesh, self.config.parent, self.model
        if model is None or any(shared is model for shared in part.shared):
            return
        model.to(self.device)
        if not model.training:
            model.train()
        stage = len(part.shared)
        part.shared.append(model)
        if not flag(self.config.extra, "same_start", True) or not (parent or self.config.children):
            return
        assert part.link is not None, "the controller configures a site before it runs"
        start = joined(trainable_of(model))
        if parent:
            key = Key(_START, stage, parent)
            if part.progress is not None:
                part.progress.waits_for(parent)
            start = vector_of(part.link.receive([key], part.start_timeout)[key], start, parent)
            if part.progress is not None:
                part.progress.waits_for(None)
            set_all(trainable_of(model), start)
        for child in self.config.children:
            part.link.send(child, Key(_START, stage, self.client_name), [payload_of(start)])

    def _value_of(self, vectors: Vectors) -> Any:
        assert self.model is not None, "the problem has been built"
        set_all(trainable_of(self.model), vectors[0])
        return self.model.parameters()

    def _own_vectors(self, vectors: Vectors) -> Vectors:
        assert self.model is not None, "the problem has been built"
        return (flat(trainable_of(self.model), vectors[0]),)

    def _vectors_of(self, value: Any, like: Vectors) -> Vectors:
        return (flat(self._of_trainable(value), like[0]),)

    def _of_trainable(self, values: Iterable[Any]) -> list[Any]:
        """Those of the trainable parameters, of values for these or for all parameters."""
        assert self.model is not None, "the problem has been built"
        given, parameters = list(values), list(self.model.parameters())
        if len(given) != len(parameters):
            return given
        return [value for value, own in zip(given, parameters, strict=True) if own.requires_grad]

    def _post_algorithm_run(self, *args: Any, **kwargs: Any) -> None:
        self._save_sequence("train_loss_sequence.pt", self.train_loss_sequence)
        self._save_sequence("test_loss_sequence.pt", self.test_loss_sequence)


class _LossSequences:
    """A MetricsSink that keeps the losses with the seconds of training until then."""

    def __init__(self, train: list[tuple[float, float]], test: list[tuple[float, float]]):
        self._train, self._test = train, test
        self._seconds = 0.0

    def iteration(self, record: Iteration) -> None:
        """See MetricsSink."""
        self._seconds += record.seconds
        if record.loss is not None:
            self._train.append((self._seconds, record.loss))

    def evaluation(self, record: Evaluation) -> None:
        """See MetricsSink."""
        if "loss" in record.metrics and (record.iteration or not self._test):
            self._test.append((self._seconds, record.metrics["loss"]))

    def norms(self, record: Norms) -> None:
        """Not kept."""


def sent(tensor: Tensor) -> Any:
    """A copy as NumPy's array, as the stock package sends it; bfloat16, which NumPy lacks, stays a tensor."""
    copy = tensor.detach().cpu().clone()
    return copy if copy.dtype == torch.bfloat16 else copy.numpy()


def received(value: Any) -> Tensor:
    """A tensor of what `sent` gave."""
    return torch.as_tensor(value)


def trainable_of(model: Module) -> list[Tensor]:
    """Where frozen ones stay as they are, these are what the sites agree on."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
