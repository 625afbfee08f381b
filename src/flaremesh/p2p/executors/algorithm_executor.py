"""Any registered algorithm on any problem: the executor of `flaremesh run` and base of the named ones."""

import gc
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer

from flaremesh import algorithms
from flaremesh.errors import FlaremeshError
from flaremesh.links.outgoing import Address
from flaremesh.metrics.sink import Evaluation, Fanout, Iteration, Norms
from flaremesh.p2p.executors.sync_executor import SyncAlgorithmExecutor
from flaremesh.p2p.outcome import RUN_FOLDER, SiteOutcome
from flaremesh.p2p.types import LocalConfig
from flaremesh.problems.delivery import DeliveredProblem
from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.problems.reference import load_problem
from flaremesh.runtime.history import History
from flaremesh.runtime.randomness import built
from flaremesh.runtime.site_run import RunOptions, SiteRun

_HISTORY_POINTS = 500  # of a site's history that leave the site


class UnsoundWeights(FlaremeshError):
    """The network's weights are not those for which the algorithm is made."""


class AlgorithmExecutor(SyncAlgorithmExecutor):
    """Runs ``algorithm`` on ``problem``; hyper-parameters and run options come from the run's ``extra``.

    Args:
        algorithm: name in the registry.
        problem: {"path": dotted class path, "args": keyword arguments}; None where the job brings it
            along (see flaremesh.problems.delivery), or a subclass overrides ``_make_problem``.
        sync_timeout: see SyncAlgorithmExecutor.
    """

    def __init__(
        self, algorithm: str, problem: dict[str, Any] | None = None, sync_timeout: float | None = None
    ) -> None:
        super().__init__(sync_timeout)
        self.algorithm = algorithm
        self.problem = problem
        self._app = Path()
        self._outcome = SiteOutcome()

    def iteration(self, record: Iteration) -> None:
        """Hook after every iteration; see MetricsSink."""

    def evaluation(self, record: Evaluation) -> None:
        """Hook after every evaluation; see MetricsSink."""

    def norms(self, record: Norms) -> None:
        """Hook once a second at most; see MetricsSink."""

    def _observe(self, run: SiteRun) -> None:
        """Hook after every iteration, for executors that look at the iterate itself."""

    def _run_dir(self, fl_ctx: FLContext) -> Path:
        return Path(fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id()))

    def _make_problem(self, site: SiteContext) -> Problem:
        if self.problem is None:
            return DeliveredProblem.of(self._app).build(site)
        return load_problem(self.problem["path"], site, self.problem.get("args", {}))

    def run_algorithm(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """See BaseDistOptExecutor; leaves history and model in the run folder, whatever the outcome."""
        assert self._link is not None, "the controller configures a site before it runs"
        assert self._metrics is not None, "it comes with the link"
        assert self._progress is not None, "it comes with the link"
        extra = from_shareable(shareable).data
        folder = self._run_dir(fl_ctx) / RUN_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        site = SiteContext.here(
            self.client_name, self.config.index, self.config.sites, int(extra.get("seed", 0))
        )
        options = RunOptions(**{name: extra[name] for name in _names(RunOptions) & extra.keys()})
        started = time.perf_counter()
        with History(folder / "history.jsonl") as history:
            try:
                run = SiteRun(
                    self._make_algorithm(extra),
                    built(site, self._make_problem),
                    self.config.schedule,
                    self._link,
                    Fanout(history, self._progress, self._metrics, self),
                    replace(options, peer_timeout=self.peer_timeout),
                )
                # torch's modules stay to the end: looking at them cost seconds when the process ended
                gc.freeze()
                for iteration in range(options.iterations):
                    run.send(iteration)
                    run.advance(iteration)
                    self._observe(run)
                run.save(folder / "model.safetensors")
            finally:
                self._outcome = SiteOutcome(
                    iterations=history.last_iteration,
                    metrics=history.last_metrics,
                    seconds=time.perf_counter() - started,
                    sent_bytes=dict(self._traffic.sent_bytes),
                    received_bytes=dict(self._traffic.received_bytes),
                    links=dict(self._traffic.links),
                    history=history.thinned(_HISTORY_POINTS),
                )

    def _authorize(self, fl_ctx: FLContext) -> None:
        """Hold the classes that a job names to the kit's allow-list, as NVFlare does its own components.

        flaremesh's own problems and algorithms need no entry: they can be nothing but classes of that kind,
        see class_path.class_at.
        """
        for path, own in (
            (self.algorithm, "flaremesh.algorithms."),
            (self._problem_path(), "flaremesh.problems."),
        ):
            if "." not in path or path.startswith(own):
                continue
            try:
                ComponentPathAuthorizer().authorize_component_config({"path": path}, fl_ctx=fl_ctx)
            except UnsafeComponentError as error:
                raise ProblemError(
                    f"the kit of {self.client_name} does not allow {path}; list its package under "
                    "`code: {packages: [...]}` in the topology file, provision again and update the site"
                ) from error

    def _problem_path(self) -> str:
        """Of an installed class; empty where the job brings a file, which NVFlare has refused or let pass."""
        if self.problem is not None:
            return str(self.problem.get("path", ""))
        if type(self)._make_problem is not AlgorithmExecutor._make_problem:
            return ""
        return DeliveredProblem.of(self._app).path or ""

    def _algorithm_name(self) -> str:
        return self.algorithm

    def _configure(self, config: LocalConfig, fl_ctx: FLContext, abort_signal: Signal) -> Address | None:
        self._app = Path(fl_ctx.get_workspace().get_app_dir(fl_ctx.get_job_id()))
        self._authorize(fl_ctx)
        self._require_sound_weights(config)
        return super()._configure(config, fl_ctx, abort_signal)

    def _require_sound_weights(self, config: LocalConfig) -> None:
        """On other weights the algorithm would converge all the same, to the solution of another problem."""
        needed = algorithms.algorithm_class(self.algorithm).weights
        rows = config.row_stochastic or needed is algorithms.Weights.COLUMN_STOCHASTIC
        if not (rows and config.column_stochastic):
            raise UnsoundWeights(
                f"{self.algorithm} needs a {needed.value} mixing matrix, "
                f"and the {'columns' if rows else 'rows'} of this network's do not sum to one"
            )

    def _make_algorithm(self, extra: dict[str, Any]) -> algorithms.Algorithm[Any]:
        hyperparameters = _names(algorithms.algorithm_class(self.algorithm)) & extra.keys()
        return algorithms.create(self.algorithm, **{name: extra[name] for name in hyperparameters})

    def _result(self) -> dict[str, Any]:
        return {"algorithm": self.algorithm, **asdict(self._outcome)}


def _names(dataclass: type[Any]) -> set[str]:
    return {field.name for field in fields(dataclass)}
