"""Any registered algorithm on any problem: the executor of `flaremesh run`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from typing_extensions import override

from flaremesh.links import LinkError
from flaremesh.links.carrier import Address
from flaremesh.metrics.sink import Evaluation, Iteration, Logged, Norms
from flaremesh.p2p.executors.native_run import (
    NativeRun,
    algorithm_of,
    authorize,
    options_of,
    require_sound_weights,
)
from flaremesh.p2p.executors.run_executor import RunExecutor
from flaremesh.p2p.extra import whole
from flaremesh.p2p.outcome import SITE_RESULT
from flaremesh.p2p.types import LocalConfig
from flaremesh.problems.delivery import DeliveredProblem
from flaremesh.problems.protocol import Problem, SiteContext
from flaremesh.problems.reference import load_problem
from flaremesh.runtime.joining import Joining
from flaremesh.runtime.site_run import SiteRun


class AlgorithmExecutor(RunExecutor):
    """Runs ``algorithm`` on ``problem``; hyper-parameters and run options come from the run's ``extra``.

    Args:
        algorithm: name in the registry.
        problem: {"path": dotted class path, "args": keyword arguments}; None where the job brings it
            along (see flaremesh.problems.delivery).
        sync_timeout: seconds to wait for the neighbours; None takes the run's ``peer_timeout``.
    """

    def __init__(
        self, algorithm: str, problem: dict[str, Any] | None = None, sync_timeout: float | None = None
    ) -> None:
        super().__init__(sync_timeout)
        self.algorithm = algorithm
        self.problem = problem

    def iteration(self, record: Iteration) -> None:
        """Hook after every iteration, as MetricsSink has it."""

    def evaluation(self, record: Evaluation) -> None:
        """Hook after every evaluation, as MetricsSink has it."""

    def logged(self, record: Logged) -> None:
        """Hook after what the site's training has logged itself, as MetricsSink has it."""

    def norms(self, record: Norms) -> None:
        """Hook once a second at most, as MetricsSink has it."""

    def _observe(self, run: SiteRun) -> None:
        """Hook after every iteration, for executors that look at the iterate itself."""

    @override
    def run_algorithm(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """As in RunExecutor; leaves what `NativeRun.go` leaves."""
        part = self._flaremesh
        native = part.native or self._build_run(fl_ctx, shareable)
        part.outcome = native.go(self._observe)

    @override
    def _configure(self, config: LocalConfig, fl_ctx: FLContext, abort_signal: Signal) -> Address | None:
        super()._configure(config, fl_ctx, abort_signal)
        authorize(self.algorithm, self.client_name, fl_ctx)
        # NVFlare has decided already whether the job may bring a file
        path = _delivered(fl_ctx).path if self.problem is None else str(self.problem.get("path", ""))
        authorize(path or "", self.client_name, fl_ctx)
        require_sound_weights(self.algorithm, config)
        return self._join_run(self.algorithm, fl_ctx, abort_signal)

    @override
    def _connect_links(self, addresses: Mapping[str, Address], timeout: float, by_value: bool) -> None:
        if by_value:
            raise LinkError(
                f"{self.client_name} sends vectors, and the executor of another site makes its messages "
                "itself: all sites need executors of one kind"
            )
        super()._connect_links(addresses, timeout, by_value)

    @override
    def _prepare_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        self._flaremesh.native = self._build_run(fl_ctx, shareable)
        super()._prepare_run(fl_ctx, shareable, abort_signal)

    def _build_run(self, fl_ctx: FLContext, shareable: Shareable) -> NativeRun:
        """Build the problem, compute the first gradient, and evaluate the initial point."""
        extra = from_shareable(shareable).data
        member, told = self._flaremesh.member, self._flaremesh.preparation
        joins = self.client_name in told.joining

        def make_problem(site: SiteContext) -> Problem:
            if self.problem is None:
                return _delivered(fl_ctx).build(site)
            return load_problem(self.problem["path"], site, self.problem.get("args", {}))

        native = NativeRun(
            member,
            self.config,
            algorithm_of(self.algorithm, extra),
            make_problem,
            options_of(extra, self.peer_timeout),
            whole(extra, "seed", None, 0),
            self,
            checkpoints=member.checkpoints,
            resume=member.checkpoints.read(told.resume)
            if member.checkpoints and told.resume and not joins
            else None,
            joining=Joining(told.resume, told.joining) if told.resume and told.repair else None,
            start_timeout=self._flaremesh.start_timeout,
        )
        if member.checkpoints:
            member.hear_checkpoints(native.run.follow_checkpoints)
        return native

    @override
    def _checkpointed(self) -> list[int]:
        checkpoints = self._flaremesh.member.checkpoints
        return checkpoints.iterations() if checkpoints else []

    @override
    def _site_result(self) -> dict[str, Any]:
        part = self._flaremesh
        outcome = part.outcome or part.member.outcome(0)
        return {"algorithm": self.algorithm, **SITE_RESULT.data(outcome)}


def _delivered(fl_ctx: FLContext) -> DeliveredProblem:
    """The problem that the job brings along."""
    return DeliveredProblem.of(Path(fl_ctx.get_workspace().get_app_dir(fl_ctx.get_job_id())))
