"""GTAdam on a torch module: subclass it, and build model and data in the constructor."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from torch import Tensor
from torch.nn import Module
from typing_extensions import override

from flaremesh.algorithms.gtadam import GtAdam
from flaremesh.p2p.executors.gradient_tracking import GTExecutor
from flaremesh.problems.module import Batch
from flaremesh.runtime.site_run import SiteRun


class GTADAMExecutor(GTExecutor):
    """GTAdam: gradient tracking with adaptive moments; ``extra`` holds beta1, beta2 and epsilon.

    The arguments are those of ModuleExecutor.

    Attributes:
        beta1, beta2, epsilon, G: hyper-parameters of flaremesh.algorithms.gtadam.GtAdam; G is a 0-d tensor.
        m, v: the moments, as lists like ``tracker``.
    """

    algorithm_name = "gtadam"

    def __init__(
        self,
        model: Module | None = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        train_dataloader: Iterable[Batch] | None = None,
        test_dataloader: Iterable[Batch] | None = None,
        val_dataloader: Iterable[Batch] | None = None,
        sync_timeout: float | None = None,
    ) -> None:
        super().__init__(model, loss, train_dataloader, test_dataloader, val_dataloader, sync_timeout)
        self.beta1, self.beta2, self.epsilon = GtAdam.beta1, GtAdam.beta2, GtAdam.epsilon
        self.G = torch.tensor(GtAdam.G)
        self.m: list[Tensor] = []
        self.v: list[Tensor] = []

    @override
    def _pre_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
        extra = from_shareable(shareable).data
        self.beta1 = extra.get("beta1", self.beta1)
        self.beta2 = extra.get("beta2", self.beta2)
        self.epsilon = extra.get("epsilon", self.epsilon)
        self.G = torch.tensor(float(extra.get("G", GtAdam.G)), device=self.device)
        self.m, self.v = self._zeros_like_parameters(), self._zeros_like_parameters()

    @override
    def _update_local_state(self, stepsize: float) -> None:
        """As in GTExecutor; the moments take in the tracker first."""
        self.m, self.v = self.m or self._zeros_like_parameters(), self.v or self._zeros_like_parameters()
        parameters = self._given_model().parameters()
        for i, (parameter, tracker) in enumerate(zip(parameters, self.tracker, strict=True)):
            self.m[i] = torch.lerp(tracker, self.m[i], self.beta1)
            self.v[i] = torch.minimum(
                self.beta2 * self.v[i] + (1 - self.beta2) * tracker**2, self.G.to(tracker)
            )
            if parameter.requires_grad:
                parameter.addcdiv_(self.m[i], (self.v[i] + self.epsilon).sqrt(), value=-stepsize)

    @override
    def _show_end(self, run: SiteRun) -> None:
        super()._show_end(run)
        if not self._flaremesh.by_value:
            self.m, self.v = self._like_parameters(run.state.m), self._like_parameters(run.state.v)
