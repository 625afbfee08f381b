"""Any registered algorithm on any problem: the executor of `flaremesh run` and base of the named ones."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from pydantic import ValidationError

from flaremesh import algorithms
from flaremesh.algorithms import Vectors
from flaremesh.errors import FlaremeshError
from flaremesh.gossip import Mixture
from flaremesh.links import LinkError
from flaremesh.links.carrier import Address
from flaremesh.metrics.sink import Evaluation, Fanout, Iteration, MetricsSink, Norms
from flaremesh.p2p.executors.by_value import RunByValue, flat
from flaremesh.p2p.executors.ported import MESSAGES, overrides
from flaremesh.p2p.executors.sync_executor import SyncAlgorithmExecutor
from flaremesh.p2p.extra import ExtraError, flag, positive, whole
from flaremesh.p2p.nvflare.policy import allows
from flaremesh.p2p.outcome import RUN_FOLDER, SITE_RESULT, SiteResult
from flaremesh.p2p.types import LocalConfig
from flaremesh.problems.delivery import DeliveredProblem
from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.problems.reference import load_problem
from flaremesh.runtime.history import HISTORY, History
from flaremesh.runtime.randomness import built
from flaremesh.runtime.site_run import RunOptions, SiteRun
from flaremesh.topology.schema import Wire

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

    Where a site's subclass overrides one of the methods that see messages, all sites exchange values by
    ``_exchange_values`` instead of vectors.
    """

    _hooks: ClassVar[frozenset[str]] = MESSAGES

    def __init__(
        self, algorithm: str, problem: dict[str, Any] | None = None, sync_timeout: float | None = None
    ) -> None:
        super().__init__(sync_timeout)
        self.algorithm = algorithm
        self.problem = problem
        self._app = Path()
        self._iterations: int | None = None
        self._stepsize: float | None = None

    def iteration(self, record: Iteration) -> None:
        """Hook after every iteration; see MetricsSink."""

    def evaluation(self, record: Evaluation) -> None:
        """Hook after every evaluation; see MetricsSink."""

    def norms(self, record: Norms) -> None:
        """Hook once a second at most; see MetricsSink."""

    def _observe(self, run: SiteRun) -> None:
        """Hook after every iteration, for executors that look at the iterate itself."""

    def _make_problem(self, site: SiteContext) -> Problem:
        if self.problem is None:
            return DeliveredProblem.of(self._app).build(site)
        return load_problem(self.problem["path"], site, self.problem.get("args", {}))

    def _pre_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """Read ``_iterations`` and ``_stepsize``, which subclasses may change, from the run's ``extra``."""
        extra = from_shareable(shareable).data
        if "iterations" in extra or not overrides(self, "run_algorithm"):
            self._iterations = whole(extra, "iterations")
        if extra.get("stepsize") is not None:
            self._stepsize = positive(extra, "stepsize")

    def run_algorithm(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """See BaseDistOptExecutor; leaves history and model in the run folder, whatever the outcome."""
        part = self._flaremesh
        if part.run is None:
            self._build_run(from_shareable(shareable).data)
        assert part.run is not None, "it has just been built"
        assert part.history is not None, "it comes with the run"
        run = part.run
        # torch's modules stay to the end: looking at them cost seconds when the process ended
        gc.freeze()
        started = time.perf_counter()
        with part.history as history:
            for iteration in range(run.iterations):
                run.iterate(iteration)
                self._observe(run)
            run.save(part.folder / RUN_FOLDER / "model.safetensors")
        self._show_end(run)
        part.outcome = SiteResult(
            iterations=history.last_iteration,
            metrics=history.last_metrics,
            seconds=time.perf_counter() - started,
            sent_bytes=dict(part.traffic.sent_bytes),
            received_bytes=dict(part.traffic.received_bytes),
            links=dict(part.traffic.links),
            history=history.thinned(_HISTORY_POINTS),
        )

    def _prepare_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        super()._prepare_run(fl_ctx, shareable, abort_signal)
        # a subclass's own run_algorithm may still change what the run is made of
        if not overrides(self, "run_algorithm"):
            self._build_run(from_shareable(shareable).data)

    def _build_run(self, extra: Mapping[str, Any]) -> None:
        """Build the problem, compute the first gradient, and evaluate the initial point."""
        part = self._flaremesh
        assert part.link is not None, "the controller configures a site before it runs"
        self._require_sound_weights(self.config)
        options = self._run_options(extra)
        folder = part.folder / RUN_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        site = SiteContext.here(
            self.client_name, self.config.index, self.config.sites, whole(extra, "seed", None, 0)
        )
        with ExitStack() as opened:
            part.history = opened.enter_context(History(folder / HISTORY))
            sinks: list[MetricsSink | None] = [part.history, part.progress, part.metrics, self._own_sink()]
            algorithm = self._make_algorithm(dict(extra) | _given(stepsize=self._stepsize))
            problem = built(site, self._make_problem)
            make: Callable[..., SiteRun] = SiteRun
            if part.by_value:
                if extra.get("mix_buffers") and problem.buffers() is not None:
                    raise ExtraError(
                        f'{self.client_name}: extra["mix_buffers"] is true, and a subclass makes the '
                        "messages, which have no place for buffers; without it each site keeps its own"
                    )
                options = replace(options, mix_buffers=False)
                make = partial(RunByValue, self._exchange_vectors)
            part.run = make(
                algorithm,
                problem,
                self.config.schedule,
                part.link,
                Fanout(*(sink for sink in sinks if sink is not None)),
                options,
            )
            opened.pop_all()

    def _run_options(self, extra: Mapping[str, Any]) -> RunOptions:
        given = {name: extra[name] for name in _names(RunOptions) & extra.keys()}
        given |= _given(iterations=self._iterations) | {"peer_timeout": self.peer_timeout}
        for name in ("stop_on_non_finite", "mix_buffers"):
            flag(extra, name, True)
        if given.get("evaluate_every") is not None:
            whole(extra, "evaluate_every", 1)
        given["iterations"] = whole(given, "iterations")
        try:
            options = RunOptions(**given)
        except ValidationError as error:
            raise ExtraError(f'extra["wire"]: {error.errors()[0]["msg"]}') from error
        if self._flaremesh.by_value and options.wire != Wire():
            raise ExtraError(
                f'{self.client_name}: extra["wire"] is {options.wire.encoding}, and a subclass makes the '
                "messages, which travel as they are; leave wire out, and narrow the values in _to_message"
            )
        return options

    def _own_sink(self) -> MetricsSink | None:
        """Who hears of the run besides history and metrics."""
        return self

    def _show_end(self, run: SiteRun) -> None:
        """The last iteration is over; hook of the named executors."""

    def _save_sequence(self, name: str, sequence: Sequence[Any]) -> None:
        """Save a sequence in the run's folder, in the simulator also where the stock package leaves it."""
        arrays = any(isinstance(element, torch.Tensor | np.ndarray) for element in sequence)
        tensor = torch.stack([*map(torch.as_tensor, sequence)]) if arrays else torch.tensor(sequence)
        for folder in (self._flaremesh.folder, *([Path.cwd()] if self._flaremesh.simulated else [])):
            torch.save(tensor, folder / name)

    def _exchange_vectors(self, vectors: Vectors, iteration: int) -> Mixture:
        """Let a subclass's methods exchange the vectors, and mix what is in ``neighbors_values`` then."""
        context = self._flaremesh.context
        assert context is not None, "an iteration runs in a task"
        with torch.no_grad():
            self._exchange_values(context, value=self._value_of(vectors), iteration=iteration)
            own = self._own_vectors(vectors)
            mixed = tuple(vector * self._weight for vector in own)
            received = self.neighbors_values.pop(iteration, {})
            for neighbor in self.neighbors:
                if neighbor.id not in received:
                    raise LinkError(
                        f"{self.client_name}: _exchange_values of {type(self).__name__} left no value of "
                        f"{neighbor.id} in neighbors_values[{iteration}]"
                    )
                theirs = self._their_vectors(received[neighbor.id], own, neighbor.id)
                for total, vector in zip(mixed, theirs, strict=True):
                    total.add_(vector, alpha=neighbor.weight)
            return Mixture(mixed, torch.linalg.vector_norm(mixed[0] - own[0]))

    def _their_vectors(self, value: Any, like: Vectors, peer: str) -> Vectors:
        try:
            return self._vectors_of(value, like)
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
            raise LinkError(
                f"{self.client_name}: what _from_message of {type(self).__name__} makes of {peer}'s value "
                f"does not fit the own one: {error}"
            ) from error

    def _value_of(self, vectors: Vectors) -> Any:
        """What ``_exchange_values`` gets for vectors; from the named executors, what the stock's give."""
        return [vector.clone() for vector in vectors]

    def _own_vectors(self, vectors: Vectors) -> Vectors:
        """The vectors after the exchange, in which a subclass may have changed what it holds."""
        return vectors

    def _vectors_of(self, value: Any, like: Vectors) -> Vectors:
        """The vectors in a neighbour's value, each like the own one; raises ValueError if it has others."""
        return tuple(flat([part], own) for part, own in zip(value, like, strict=True))

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
            if not allows(path, fl_ctx):
                raise ProblemError(
                    f"the kit of {self.client_name} does not allow {path}; list its package under "
                    "`code: {packages: [...]}` in the topology file, provision again and update the site"
                )

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
        if not overrides(self, "run_algorithm"):
            self._require_sound_weights(config)
        return super()._configure(config, fl_ctx, abort_signal)

    def _require_sound_weights(self, config: LocalConfig) -> None:
        """On other weights the algorithm would converge all the same, to the solution of another problem."""
        needed = algorithms.algorithm_class(self._algorithm_name()).weights
        reason = needed.unsoundness(
            row_stochastic=config.row_stochastic, column_stochastic=config.column_stochastic
        )
        if reason:
            raise UnsoundWeights(
                f"{self._algorithm_name()} needs a {needed.value} mixing matrix, and {reason}; "
                "what is made for such weights runs in a run_algorithm of your own"
            )

    def _make_algorithm(self, extra: dict[str, Any]) -> algorithms.Algorithm[Any]:
        name = self._algorithm_name()
        hyperparameters = _names(algorithms.algorithm_class(name)) & extra.keys()
        return algorithms.create(name, **{parameter: extra[parameter] for parameter in hyperparameters})

    def _wants_values(self) -> bool:
        return any(overrides(self, name) for name in self._hooks)

    def _site_result(self) -> dict[str, Any]:
        if self._flaremesh.outcome is None:
            return super()._site_result()
        return {"algorithm": self._algorithm_name(), **SITE_RESULT.data(self._flaremesh.outcome)}


def _names(dataclass: type[Any]) -> set[str]:
    return {field.name for field in fields(dataclass)}


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
