"""Training a torch module: what the executors of all algorithms have in common."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from torch import Tensor
from torch.nn import Module
from typing_extensions import override

from flaremesh.algorithms import Vectors
from flaremesh.links import Key, LinkError
from flaremesh.links.link import MAX_MESSAGE_BYTES
from flaremesh.metrics.sink import Evaluation, Iteration, Logged, MetricsSink, Norms
from flaremesh.p2p.executors.by_value import flat, set_all
from flaremesh.p2p.executors.ported import overrides
from flaremesh.p2p.executors.registered_executor import RegisteredExecutor
from flaremesh.p2p.extra import flag
from flaremesh.p2p.utils.metrics import compute_loss_over_dataset
from flaremesh.p2p.utils.utils import get_device
from flaremesh.problems.flat import joined
from flaremesh.problems.module import Batch, ModuleProblem
from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.runtime.vectors import payload_of, vector_of

_START = -2  # iteration number of the message that carries the initial point


class ModuleExecutor(RegisteredExecutor):
    """Base of the executors that train.

    Whatever is None in the constructor has to be set by ``_pre_algorithm_run`` at the latest.

    Args:
        model: the module; unless ``extra`` says ``same_start: False``, all sites start from the parameters
            that the first site's module has.
        loss: (outputs, targets) -> mean loss over the batch.
        train_dataloader: batches of (inputs, targets).
        test_dataloader: the same for evaluation.
        val_dataloader: used for evaluation where there is no test_dataloader.
        sync_timeout: seconds to wait for the neighbours; None takes the run's ``peer_timeout``.

    Attributes:
        device: where to compute.
        train_loss_sequence: (seconds, loss on the mini-batch) of every iteration; saved as a .pt file.
        test_loss_sequence: (seconds, loss) of every evaluation; saved as a .pt file.
    """

    def __init__(
        self,
        model: Module | None = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        train_dataloader: Iterable[Batch] | None = None,
        test_dataloader: Iterable[Batch] | None = None,
        val_dataloader: Iterable[Batch] | None = None,
        sync_timeout: float | None = None,
    ) -> None:
        super().__init__(sync_timeout)
        self.device: torch.device | str = get_device()
        self.model = model.to(self.device) if isinstance(model, Module) else model
        self.loss = loss.to(self.device) if isinstance(loss, Module) else loss
        self.train_dataloader = train_dataloader
        self.test_dataloader = test_dataloader
        self.val_dataloader = val_dataloader
        self.train_loss_sequence: list[tuple[float, float]] = []
        self.test_loss_sequence: list[tuple[float, float]] = []

    @override
    def _own_sink(self) -> MetricsSink:
        return _LossSequences(self.train_loss_sequence, self.test_loss_sequence)

    @override
    def _pre_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
        if overrides(self, "run_algorithm") and self.model is not None and self.loss is not None:
            # a subclass's own loop does not evaluate the initial point
            for losses, batches in (
                (self.train_loss_sequence, self.train_dataloader),
                (self.test_loss_sequence, self.test_dataloader),
            ):
                if batches is not None:
                    loss = compute_loss_over_dataset(self.model, self.loss, batches, self.device)
                    losses.append((0.0, loss))

    @override
    def _prepare_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        self._share_start()  # before a subclass copies what it starts from
        super()._prepare_run(fl_ctx, shareable, abort_signal)
        self._share_start()

    @override
    def _make_problem(self, site: SiteContext) -> Problem:
        model = self._given_model()
        if self.loss is None or self.train_dataloader is None:
            raise self._lacks("loss" if self.loss is None else "train_dataloader")
        test = self.val_dataloader if self.test_dataloader is None else self.test_dataloader
        self._share_start()
        return ModuleProblem(
            site, model, self.loss, self.train_dataloader, () if test is None else test, str(self.device)
        )

    def _given_model(self) -> Module:
        if self.model is None:
            raise self._lacks("model")
        return self.model

    def _lacks(self, what: str) -> ProblemError:
        return ProblemError(
            f"{type(self).__name__} of {self.client_name} has no {what}: hand it to super().__init__, "
            "or set it in _pre_algorithm_run"
        )

    def _share_start(self) -> None:
        """Take the initial point from the parent site, since sites build different models, and pass it on.

        It is done again for each further model that a subclass puts in the place of the shared one.
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
        member = part.member
        start = joined(trainable_of(model))
        by_value = part.by_value or overrides(self, "run_algorithm")  # then messages have any length
        member.link.expect(MAX_MESSAGE_BYTES if by_value else start.numel() * start.element_size())
        if parent:
            key = Key(_START, stage, parent)
            member.progress.waits_for(parent)
            start = vector_of(member.link.receive([key], part.start_timeout)[key], start, parent)
            member.progress.waits_for(None)
            if not bool(start.isfinite().all()):
                raise LinkError(f"{parent} sent {self.client_name} an initial point that is not finite")
            set_all(trainable_of(model), start)
        for child in self.config.children:
            member.link.send(child, Key(_START, stage, self.client_name), [payload_of(start)])

    @override
    def _value_of(self, vectors: Vectors) -> Any:
        model = self._given_model()
        set_all(trainable_of(model), vectors[0])
        return model.parameters()

    @override
    def _own_vectors(self, vectors: Vectors) -> Vectors:
        return (flat(trainable_of(self._given_model()), vectors[0]),)

    @override
    def _vectors_of(self, value: Any, like: Vectors) -> Vectors:
        return (flat(self._of_trainable(value), like[0]),)

    def _of_trainable(self, values: Iterable[Any]) -> list[Any]:
        """The values of the trainable parameters; ``values`` may be for these or for all parameters."""
        given, parameters = list(values), list(self._given_model().parameters())
        if len(given) != len(parameters):
            return given
        return [value for value, own in zip(given, parameters, strict=True) if own.requires_grad]

    @override
    def _post_algorithm_run(self, *args: Any, **kwargs: Any) -> None:
        self._save_sequence("train_loss_sequence.pt", self.train_loss_sequence)
        self._save_sequence("test_loss_sequence.pt", self.test_loss_sequence)


class _LossSequences(MetricsSink):
    """A MetricsSink that keeps the losses with the seconds of training until then."""

    def __init__(self, train: list[tuple[float, float]], test: list[tuple[float, float]]):
        self._train, self._test = train, test
        self._seconds = 0.0

    @override
    def iteration(self, record: Iteration) -> None:
        self._seconds += record.seconds
        if record.loss is not None:
            self._train.append((self._seconds, record.loss))

    @override
    def evaluation(self, record: Evaluation) -> None:
        if "loss" in record.metrics and (record.iteration or not self._test):
            self._test.append((self._seconds, record.metrics["loss"]))

    @override
    def logged(self, record: Logged) -> None:
        """Not kept."""

    @override
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
    """The trainable parameters, which are what the sites agree on."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
