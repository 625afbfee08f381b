"""A registered algorithm on a site's problem: what is checked before, the loop, and what it leaves behind."""

import gc
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields
from itertools import count
from typing import Any

from nvflare.apis.fl_context import FLContext
from pydantic import ValidationError

from flaremesh import algorithms
from flaremesh.errors import FlaremeshError
from flaremesh.metrics.sink import Fanout, MetricsSink
from flaremesh.p2p.executors.member import Member
from flaremesh.p2p.extra import ExtraError, checkpoint_interval_of, flag, privacy_of, until_of, whole
from flaremesh.p2p.nvflare.allow_list import allows
from flaremesh.p2p.outcome import BEST_MODEL, MODEL, RUN_FOLDER, SiteResult
from flaremesh.p2p.types import LocalConfig
from flaremesh.printable import printable
from flaremesh.privacy import pairs
from flaremesh.privacy.accounting import pairs_of
from flaremesh.privacy.masks import masked
from flaremesh.privacy.noise import Secrets
from flaremesh.problems.protocol import Problem, ProblemError, SiteContext
from flaremesh.problems.script import ScriptProblem
from flaremesh.runtime import tensor_file
from flaremesh.runtime.checkpoint import Checkpoint, Checkpoints
from flaremesh.runtime.history import HISTORY, History
from flaremesh.runtime.joining import Joining
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.randomness import built
from flaremesh.runtime.site_run import SiteRun

_HISTORY_POINTS = 500  # so many records of a site's history go to the server


class UnsoundWeights(FlaremeshError):
    """The network's weights are not those for which the algorithm is made."""


class ResultError(FlaremeshError):
    """A run's result cannot be written at its site."""


class NativeRun:
    """A site's loop, built but not begun: the first gradient is computed, the initial point evaluated.

    Args:
        member: the site in the run.
        config: the site's part of the network.
        algorithm: the algorithm.
        make_problem: builds the site's objective.
        options: how the site runs.
        seed: of the run.
        sink: a further sink besides history, progress and metrics; None for none.
        make: makes the loop from the arguments of SiteRun.
        checkpoints: where the site's checkpoints go; None for none.
        resume: where to go on; None to begin.
        joining: the sites that join the others there; None for none.
        start_timeout: seconds to wait for what a neighbour does before the first iteration.

    Attributes:
        run: the loop.
    """

    def __init__(
        self,
        member: Member,
        config: LocalConfig,
        algorithm: algorithms.Algorithm[Any],
        make_problem: Callable[[SiteContext], Problem],
        options: RunOptions,
        seed: int,
        sink: MetricsSink | None,
        make: Callable[..., SiteRun] = SiteRun,
        checkpoints: Checkpoints | None = None,
        resume: Checkpoint | None = None,
        joining: Joining | None = None,
        *,
        start_timeout: float,
    ):
        if options.asynchronous:
            require_sound_asynchrony(algorithm, config, options, checkpoints)
        self._member = member
        self._folder = member.folder / RUN_FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        site = SiteContext.here(config.schedule[0].site, config.index, config.sites, seed, options.iterations)
        with ExitStack() as opened:
            earlier = resume.history if resume else ()
            self._history = opened.enter_context(History(self._folder / HISTORY, earlier))
            sinks: list[MetricsSink] = [self._history, member.progress, member.metrics]
            sinks += [each for each in (sink, member.live) if each is not None]
            secrets = _secrets(member, config, algorithm, options, start_timeout)
            problem = built(site, make_problem)
            if isinstance(problem, ScriptProblem):
                # weak: a script ends when nobody uses its problem any more
                script = weakref.ref(problem)
                member.metrics.ranks = lambda: own.ranks() if (own := script()) is not None else None
            self.run = make(
                algorithm,
                problem,
                config.schedule,
                member.link,
                Fanout(*sinks),
                options,
                checkpoints,
                resume,
                config.members,
                joining,
                config.hops,
                secrets,
            )
            member.metrics.checkpoints, member.metrics.clips = self.run.checkpointing, self.run.clips
            member.metrics.spending = self.run.noised
            if self.run.checkpointing:
                self.run.checkpointing.tell = member.progress.checkpointed
            # the end is a checkpoint, too: a further attempt only delivers what has come out
            self.run.checkpoint_at(self.run.iterations)
            opened.pop_all()

    def go(self, observe: Callable[[SiteRun], None]) -> SiteResult:
        """All iterations; leaves its history in the run's folder however it ends, its models if it finishes.

        Args:
            observe: called after every iteration.

        Raises:
            ResultError: the volume does not take the result; see also SiteRun.turns.
        """
        # torch's objects live to the end: examining them as garbage took seconds when the process ended
        gc.freeze()
        started = time.perf_counter()
        run = self.run
        with self._history as history, ExitStack() as ending:
            if run.checkpointing:
                # the next attempt may go on from what is being written
                ending.callback(run.checkpointing.wait)
            for iteration in count(run.start):
                run.iterate(iteration)
                if run.ended:
                    break
                observe(run)
            self._leave_behind()
        return self._member.outcome(
            history.last_iteration,
            metrics=history.last_metrics,
            seconds=time.perf_counter() - started,
            ending=run.ending,
            epsilon=run.noised.epsilon if run.noised else None,
            history=history.thinned(_HISTORY_POINTS),
        )

    def _leave_behind(self) -> None:
        try:
            self._history.complete()
            self.run.save(self._folder / MODEL)
            if self.run.best is not None:
                tensor_file.write(self._folder / BEST_MODEL, self.run.best)
        except OSError as error:
            raise ResultError(
                f"all iterations are done, and the result cannot be written: {error.strerror}. "
                "Make room on the volume of this site's workspace, and run it again"
            ) from error


def _secrets(
    member: Member,
    config: LocalConfig,
    algorithm: algorithms.Algorithm[Any],
    options: RunOptions,
    timeout: float,
) -> Secrets:
    """The site's secrets, and those that it agrees on with its neighbours where the run needs them."""
    correlated = options.privacy.epsilon is not None and options.privacy.noise == "correlated"
    shared = {}
    if correlated or masked(algorithm, options.privacy) or options.privacy.secure_aggregation:
        shared = pairs.agree(member.link, config.schedule, timeout)
    if not correlated or member.edges is None:
        return Secrets(shared=shared)
    edges = [(site, user) for site, users in member.edges.items() for user in users]
    return Secrets(shared=shared, pairs=pairs_of(edges, sorted({site for edge in edges for site in edge})))


def options_of(extra: Mapping[str, Any], peer_timeout: float, iterations: int | None = None) -> RunOptions:
    """The options in a run's ``extra``; ``iterations`` replaces the number there.

    Raises:
        ExtraError: a value is missing or not what it must be.
    """
    given = {name: extra[name] for name in _names(RunOptions) & extra.keys()}
    given["peer_timeout"] = peer_timeout
    if iterations is not None:
        given["iterations"] = iterations
    for name in ("stop_on_non_finite", "mix_buffers"):
        flag(extra, name, True)
    flag(extra, "asynchronous", False)
    if given.get("evaluate_every") is not None:
        whole(extra, "evaluate_every", 1)
    given["iterations"] = whole(given, "iterations")
    given["until"] = until_of(extra)
    given["privacy"] = privacy_of(extra)
    given["checkpoint_every"] = checkpoint_interval_of(extra).iterations
    try:
        return RunOptions(**given)
    except ValidationError as error:
        raise ExtraError(
            f'extra["{error.title.lower()}"]: {printable(error.errors()[0]["msg"], 300)}'
        ) from error


def algorithm_of(name: str, extra: Mapping[str, Any]) -> algorithms.Algorithm[Any]:
    """The algorithm called ``name``, with the hyper-parameters that ``extra`` has for it."""
    parameters = _names(algorithms.algorithm_class(name)) & extra.keys()
    return algorithms.create(name, **{parameter: extra[parameter] for parameter in parameters})


def require_sound_weights(name: str, config: LocalConfig) -> None:
    """Raise UnsoundWeights for a network on which the algorithm would solve another problem."""
    needed = algorithms.algorithm_class(name).weights
    reason = needed.unsoundness(
        row_stochastic=config.row_stochastic,
        column_stochastic=config.column_stochastic,
        symmetric=config.symmetric,
        phases=len(config.schedule),
    )
    if reason:
        raise UnsoundWeights(
            f"{name} needs a {needed.value} mixing matrix, and {reason}; "
            "what is made for such weights runs in a run_algorithm of your own"
        )


def require_sound_asynchrony(
    algorithm: algorithms.Algorithm[Any], config: LocalConfig, options: RunOptions, checkpoints: object
) -> None:
    """Raise UnsoundWeights where a run in which no site waits would not do what its algorithm promises."""
    reason = algorithms.asynchrony_unsoundness(
        type(algorithm),
        symmetric=config.symmetric,
        phases=len(config.schedule),
        keeps_copies=options.wire.keeps_copies,
    )
    if reason is None and checkpoints is not None:
        reason = "it has no iteration in common from which a run could go on; write on_loss: fail"
    if reason is None and options.until is not None:
        reason = "its sites cannot agree when the run ends; remove until"
    if reason:
        raise UnsoundWeights(f"{type(algorithm).__name__} is not sound with asynchronous: true: {reason}")


def authorize(path: str, site: str, fl_ctx: FLContext) -> None:
    """Hold a class that a job names to the kit's allow-list, as NVFlare does its own components.

    Args:
        path: of the class; a name without a dot is none.
        site: name of this site.
        fl_ctx: of the configuration.

    Raises:
        ProblemError: the kit does not allow the class.
    """
    if "." not in path:
        return
    if not allows(path, fl_ctx):
        raise ProblemError(
            f"the kit of {site} does not allow {path}; list its package under "
            "`code: {packages: [...]}` in the topology file, provision again and update the site"
        )


def _names(dataclass: type[Any]) -> set[str]:
    return {field.name for field in fields(dataclass)}
