"""One site's part of a run: send, receive, mix, step; the same code in a pod and in the simulator."""

import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flaremesh.algorithms import Algorithm, Vectors, unclippable
from flaremesh.algorithms.descent import OwnDescent
from flaremesh.errors import FlaremeshError
from flaremesh.gossip import GossipError
from flaremesh.links import Link
from flaremesh.metrics.sink import Evaluation, Fanout, Iteration, Logged, MetricsSink, Norms
from flaremesh.printable import printable
from flaremesh.privacy.masks import masks_of
from flaremesh.privacy.noise import NoisedGradient, Secrets
from flaremesh.problems.generators import global_states, set_global_states
from flaremesh.problems.protocol import Problem
from flaremesh.runtime import tensor_file
from flaremesh.runtime.aggregated import AggregatedExchanges
from flaremesh.runtime.checked_algorithm import AlgorithmError, CheckedAlgorithm
from flaremesh.runtime.checkpoint import Checkpoint, CheckpointError, Checkpoints
from flaremesh.runtime.checkpointing import Checkpointing
from flaremesh.runtime.contract import CheckedProblem, fault_at_start
from flaremesh.runtime.cuts import Cuts
from flaremesh.runtime.exchanges import Exchanges
from flaremesh.runtime.joining import Joining
from flaremesh.runtime.observation import Observation
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.own_pace import OwnPaceExchanges
from flaremesh.runtime.privately import noised
from flaremesh.runtime.tree import Tree
from flaremesh.runtime.until import Agreement, Ending
from flaremesh.topology.aggregation import conflict
from flaremesh.topology.neighborhood import Neighborhood

_LOOK_SECONDS = 1.0  # norms are taken so seldom, since each costs a pass over a vector


class NonFiniteValue(FlaremeshError):
    """A site's loss or iterate is NaN or infinite, or what it sent; the message names the site."""


class SiteRun:
    """The loop of one site.

    Building it computes the first message and evaluates the initial point, while no neighbour waits yet.
    From then on each message is computed, and checked to be finite, before any part of it is sent.

    A checkpoint is what a site is after a whole iteration, before anything of the next one is computed. From
    there a run goes on as if nothing had happened: its first record is that of the checkpoint's iteration.
    Where sites have left or joined since, all repair their state first, and start their public copies anew.

    Args:
        algorithm: the algorithm.
        problem: the site's objective.
        schedule: the site's neighbourhood of each phase; iteration k uses phase k mod len(schedule).
        link: the site's links.
        sink: hears of every iteration.
        options: how the site runs.
        checkpoints: where the site's checkpoints go; None for none.
        resume: where to go on, with a problem that is newly built; None to begin.
        members: names of all sites that take part; () where they never change.
        joining: the sites that join the others; one of them has nothing to go on from, and begins there.
            None where nobody does.
        hops: the most edges on the way from one site to another, where something ends the run earlier.
        secrets: from which noise and masks are made; without it new ones, which no neighbour shares, so that
            nothing is masked.

    Attributes:
        problem: the site's objective, checked.
        start: how many iterations were done before.
        checkpointing: takes the checkpoints, if there are any.
        best: the model (names to tensors on the CPU) when the first metric of run.until was best at the site
            where it is worst, which is the same iteration at all sites; None without one.
        ended: whether nothing is left to do: all sites have come to what ends the run, or to its last
            iteration.
        clips: by in-neighbour, the shares of its vectors that were clipped away, summed over the exchanges.
        noised: the site's gradient in a run with a privacy budget; None without one.

    Raises:
        PrivacyError: the run cannot keep to its privacy budget.
        MissingAccountant: nothing here accounts for one.
        CheckpointError: the one to go on from does not fit; it is given up.
        ProblemError: the problem failed, or gives what it should not.
        AlgorithmError: the algorithm's first message is not what it declares; or sites have left or
            joined, and it does not say what becomes of its state; or its messages may not be clipped.
        LinkError: a site that joins does not hear from a neighbour.
        NonFiniteValue: a value is not finite, and stop_on_non_finite is set.
        GossipError: the wire or the mixing does not fit the schedule.
        UntilError: the problem does not evaluate what ends the run, or the sites cannot agree.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any],
        problem: Problem,
        schedule: Sequence[Neighborhood],
        link: Link,
        sink: MetricsSink,
        options: RunOptions,
        checkpoints: Checkpoints | None = None,
        resume: Checkpoint | None = None,
        members: Collection[str] = (),
        joining: Joining | None = None,
        hops: int | None = 0,
        secrets: Secrets | None = None,
    ):
        self.problem = CheckedProblem(problem, schedule[0].site)
        self._secrets = secrets or Secrets()
        self._objective: CheckedProblem | NoisedGradient = self.problem
        self.noised: NoisedGradient | None = None
        self._asked_iterations = options.iterations
        if options.privacy.epsilon is not None:
            self.noised = noised(
                self.problem,
                algorithm,
                options,
                self._secrets,
                phases=len(schedule),
                resumable=checkpoints is not None,
            )
            self._objective = self.noised
            options = replace(options, iterations=self.noised.budget.iterations)
        self._schedule = schedule
        self._members = sorted(members)
        self.clips: dict[str, float] = defaultdict(float)
        if options.mixing.clip is not None and (reason := unclippable(algorithm, type(algorithm).__name__)):
            raise AlgorithmError(reason)
        if reason := options.mixing.unsoundness(schedule, asynchronous=options.asynchronous):
            raise GossipError(reason)
        if options.privacy.secure_aggregation and (
            found := conflict(options.wire.encoding, options.mixing.clip is not None, options.asynchronous)
        ):
            raise GossipError("; ".join(found[1:]))
        self.checkpointing: Checkpointing | None = None
        if checkpoints is not None:
            earlier = resume.history if resume else ()
            self.checkpointing = Checkpointing(checkpoints, options.checkpoint_every, earlier)
        self._sink = sink if self.checkpointing is None else Fanout(sink, self.checkpointing)
        self._options = options
        self.best: Mapping[str, Tensor] | None = None
        self.ended = False
        self._looked = -math.inf
        self._untold: Iteration | None = None
        self._untold_norms: Norms | None = None
        self._started = False
        initial = self.problem.initial()
        if options.stop_on_non_finite and not bool(initial.isfinite().all()):
            raise NonFiniteValue(f"the initial point of {self.site} is not finite")
        buffers = self.problem.buffers() if options.mix_buffers else None
        self._exchanges = self._make_exchanges(
            algorithm.exchanges,
            initial,
            buffers,
            schedule,
            link,
            options.wire,
            options.peer_timeout,
            options.mixing,
        )
        # where this site learns sums alone
        self._aggregated = self._exchanges if isinstance(self._exchanges, AggregatedExchanges) else None
        # where it waits for nobody
        self._own_pace = self._exchanges if isinstance(self._exchanges, OwnPaceExchanges) else None
        self._agreement: Agreement | None = None
        if options.until:
            self._agreement = Agreement(options.until, link, schedule, hops, options.peer_timeout)
        own = self.problem.trains
        objective = OwnDescent(self._gradient, self._train) if own else self._gradient
        masks = masks_of(algorithm, options.privacy, self.site, self._secrets.shared)
        self._algorithm = CheckedAlgorithm(algorithm, initial.numel(), objective, masks)
        if resume is None:
            self.start = joining.iteration if joining else 0
            self._observed = self._observation(self.start - 1)
            if joining:
                self._join(initial, joining, link)
            else:
                self._algorithm.start(initial)
            self._algorithm.begin()
            self.problem.state(self.estimate)  # a model that cannot be saved fails now, not at the end
            self._evaluate(self.start)
        else:
            self.start = resume.iteration
            self._started = True
            self._observed, changed = self._restore(initial, resume, joining is not None)
            if joining:
                joining.tell(link, schedule, self.estimate, options.peer_timeout)
            if self.start < self.iterations and changed:
                self._algorithm.repair(initial)
                if self.checkpointing is not None:
                    self.checkpointing.forget_after(resume.iteration)
            self._begin_next(self._observed)

    @property
    def site(self) -> str:
        """The site's name."""
        return self._schedule[0].site

    @property
    def iterations(self) -> int:
        """Number of iterations of the run, or as many as its privacy budget allows."""
        return self._options.iterations

    @property
    def state(self) -> Any:
        """The algorithm's state."""
        return self._algorithm.state

    @property
    def estimate(self) -> Tensor:
        """The site's current estimate of the solution, (d,)."""
        return self._algorithm.estimate

    @property
    def ending(self) -> Ending | None:
        """What has ended the run at all sites before its last iteration; None if nothing has."""
        if self._agreement and self._agreement.ending:
            return self._agreement.ending
        return "budget" if self.ended and self.iterations < self._asked_iterations else None

    def run(self) -> None:
        """All iterations; see ``turns`` for what is raised."""
        for iteration in count(self.start):
            self.iterate(iteration)
            if self.ended:
                return

    def iterate(self, iteration: int) -> None:
        """One iteration, without a pause; see ``turns``."""
        for _ in self.turns(iteration):
            pass

    def turns(self, iteration: int) -> Iterator[None]:
        """One iteration, which pauses after each message that it sends, before it waits for the neighbours'.

        That lets many sites take turns in one thread: each goes on once all have sent. While the first
        message travels, the record of the iteration before goes to the sink.

        Where the sites may end the run earlier, and have evaluated what they have come to, they first agree
        whether this iteration is to be done. After the last one that is all that is left to do.

        Raises:
            NonFiniteValue: a value is not finite, and stop_on_non_finite is set.
            ProblemError: the problem failed.
            AlgorithmError: the algorithm does not exchange what it declares.
            LinkError: a neighbour's value did not come or does not fit, a neighbour takes nothing, or the run
                was aborted.
        """
        if self._agreement is not None and self._options.evaluates(iteration):
            yield from self._agree(self._agreement, iteration)
        if self._is_last(iteration):
            self._end(iteration)
            return
        self._observed = observed = self._observation(iteration)
        for stage in range(self._algorithm.exchanges):
            if self._aggregated is not None:
                yield from self._agree_on_grids(self._aggregated, observed, stage)
            self._send(observed, stage)
            if stage == 0:
                self._tell()
            yield
            if not self._algorithm.resume(partial(self._mixed, observed, stage)):
                self._record(observed)
        if observed.under_way:
            raise AlgorithmError(
                f"{self._algorithm.name} never asks for the mixture of exchange {min(observed.under_way) + 1}"
            )
        if self.checkpointing is not None:
            self.checkpointing.take_if_due(iteration + 1, self._parts)
        self._begin_next(observed)

    def checkpoint_at(self, iteration: int) -> None:
        """As Checkpointing.at."""
        if self.checkpointing is not None:
            self.checkpointing.at(iteration)

    def follow_checkpoints(self, cuts: Cuts) -> None:
        """As Checkpointing.follow."""
        if self.checkpointing is not None:
            self.checkpointing.follow(cuts)

    def save(self, path: Path) -> None:
        """Write the problem's model at the estimate as safetensors.

        Raises:
            OSError: it cannot be written.
        """
        tensor_file.write(path, self.problem.state(self.estimate))

    def _make_exchanges(self, *args: Any) -> Exchanges:
        """Takes the arguments of Exchanges."""
        if self._options.privacy.secure_aggregation:
            return AggregatedExchanges(self._secrets.shared, *args)
        return OwnPaceExchanges(*args) if self._options.asynchronous else Exchanges(*args)

    def _observation(self, iteration: int) -> Observation:
        started = time.perf_counter()
        look = started - self._looked >= _LOOK_SECONDS
        return Observation(iteration, started, [0.0] * self._algorithm.exchanges, look)

    def _begin_next(self, observed: Observation) -> None:
        """Begin the next iteration, whose first message tells whether the observed one came out finite."""
        self._algorithm.begin()
        self._record(observed)
        if observed.look:
            self._untold_norms = observed.norms(self._algorithm.message)
            self._looked = time.perf_counter()
        if self._options.evaluates(observed.iteration + 1):
            self._tell()
            self._evaluate(observed.iteration + 1)

    def _agree(self, agreement: Agreement, iteration: int) -> Iterator[None]:
        """Learn what all sites have come to, and keep the best."""
        never_better = yield from agreement.reach(iteration)
        if never_better:
            state = self.problem.state(self.estimate)
            self.best = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}

    def _is_last(self, iteration: int) -> bool:
        """Whether nothing is left to do after so many iterations."""
        if iteration >= self._options.iterations:
            return True
        if self._agreement is not None and self._agreement.ending is not None:
            return True
        return self._own_pace is not None and self._own_pace.is_over

    def _end(self, iteration: int) -> None:
        self.ended = True
        if self._own_pace is not None:
            self._own_pace.end(iteration)
            if not self._options.evaluates(iteration):
                self._tell()
                self._evaluate(iteration)

    def _parts(self) -> dict[str, Tree]:
        """What a checkpoint holds: nobody writes to states, and of everything else it has copies."""
        return {
            "state": self._algorithm.state,
            "exchanges": self._exchanges.snapshot(),
            "problem": self.problem.snapshot(),
            "observed": self._observed.snapshot(),
            "generators": global_states(),
            "members": self._members,
            "until": self._agreement.snapshot() if self._agreement else None,
            "best": self.best,
        }

    def _join(self, initial: Tensor, joining: Joining, link: Link) -> None:
        """Begin among the others; a checkpoint is taken at once, to which all can go back."""
        there = joining.learn(link, self._schedule, initial, self._options.peer_timeout)
        self._algorithm.start(there)
        if self.start < self.iterations:
            self._algorithm.repair(initial)
        if self.checkpointing is not None:
            self.checkpointing.forget_after(0)  # what it did before is not that of the others
            self.checkpointing.at(self.start)
            self.checkpointing.take_if_due(self.start, self._parts)
            self.checkpointing.wait()

    def _restore(self, initial: Tensor, checkpoint: Checkpoint, joined: bool) -> tuple[Observation, bool]:
        """Become what the checkpoint says.

        Returns:
            The iteration that it was taken in, and whether other sites take part now: some were ``joined``,
            or are gone.
        """
        parts = checkpoint.parts
        try:
            changed = joined or self._has_changed(parts["members"])
            if checkpoint.iteration > self.iterations:
                raise ValueError(f"the run has {self.iterations} iterations")
            self._algorithm.restore(initial, parts["state"])
            self.problem.restore(parts["problem"])
            self._exchanges.restore(parts["exchanges"], initial, repair=changed)
            if self._agreement and parts.get("until") and not changed:  # others come to something else
                self._agreement.restore(parts["until"])
                self.best = parts.get("best")
            observed = Observation.restored(checkpoint.iteration - 1, parts["observed"])
            set_global_states(parts["generators"])  # the last, because a problem may draw when it is restored
        except Exception as error:  # what a file says may be anything
            if self.checkpointing is not None:
                self.checkpointing.discard(checkpoint.iteration)
            raise CheckpointError(
                f"the checkpoint of iteration {checkpoint.iteration} does not fit the run of {self.site}: "
                f"{printable(error, 300)}"
            ) from error
        return observed, changed

    def _has_changed(self, before: Collection[str]) -> bool:
        """Whether other sites took part before."""
        return set(self._members) != set(before)

    def _send(self, observed: Observation, stage: int) -> None:
        started = observed.pause_own_work()
        self._exchanges.publish(observed.iteration, stage, self._algorithm.message)
        observed.under_way.add(stage)
        observed.since = time.perf_counter()
        observed.send_seconds += observed.since - started

    def _agree_on_grids(
        self, exchanges: AggregatedExchanges, observed: Observation, stage: int
    ) -> Iterator[None]:
        """Agree with the neighbours how the next message is written."""
        started = observed.pause_own_work()
        waited = yield from exchanges.agree(observed.iteration, stage, self._algorithm.message)
        observed.wait_seconds += waited
        observed.since = time.perf_counter()
        observed.send_seconds += observed.since - started - waited

    def _record(self, observed: Observation) -> None:
        """Make the iteration's record, which `_tell` hands to the sink."""
        self._untold = record = observed.record(self._algorithm.message)
        if self._options.stop_on_non_finite and not record.finite:
            self._tell()
            raise NonFiniteValue(
                f"{self.site} has a non-finite value at iteration {record.iteration} (loss {record.loss}); "
                "a smaller stepsize may help, unless its data hold such values"
            )

    def _tell(self) -> None:
        if self._untold is not None:
            self._sink.iteration(self._untold)
            self._tell_log(self._untold.iteration)
            self._untold = None
        if self._untold_norms is not None:
            self._sink.norms(self._untold_norms)
            self._untold_norms = None

    def _tell_log(self, iteration: int) -> None:
        if self.problem.logs:
            for step, metrics in self.problem.take_log():
                self._sink.logged(Logged(iteration, iteration if step is None else step, metrics))

    def _mixed(self, observed: Observation, stage: int) -> Vectors:
        if stage not in observed.under_way:
            raise AlgorithmError(f"{self._algorithm.name} asks twice for the mixture of exchange {stage + 1}")
        started = observed.pause_own_work()
        mixture, waited = self._exchanges.mix(observed.iteration, stage)
        observed.wait_seconds += waited
        observed.mix_seconds += time.perf_counter() - started - waited
        observed.under_way.remove(stage)
        observed.distances[stage] = mixture.distance
        for peer, share in mixture.clipped.items():
            self.clips[peer] += share
        if mixture.poisoned and self._options.stop_on_non_finite:
            self._untold = observed.record(self._algorithm.message)
            self._tell()
            raise NonFiniteValue(
                f"{' and '.join(mixture.poisoned)} sent {self.site} a value that is not finite in iteration "
                f"{observed.iteration + 1}. Sites check what they send, before the wire narrows it: "
                "that one diverges beyond the range of the wire, is broken, or means harm"
            )
        if stage == 0 and observed.look:
            observed.keep(mixture.vectors[0])
        observed.since = time.perf_counter()
        return mixture.vectors

    def _gradient(self, x: Tensor) -> Tensor:
        started = time.perf_counter()
        self._observed.loss, gradient = self._objective.loss_and_gradient(x)
        self._require_sound_start(gradient, "gradient")
        if self._observed.look:
            self._observed.gradient_norm = torch.linalg.vector_norm(gradient)
        self._observed.gradient_seconds += time.perf_counter() - started
        return gradient

    def _train(self, x: Tensor, steps: int, stepsize: float, shift: Tensor | None) -> Tensor:
        started = time.perf_counter()
        self._observed.loss, z = self.problem.train(x, steps, stepsize, shift)
        self._require_sound_start(z, "trained model")
        self._observed.gradient_seconds += time.perf_counter() - started
        return z

    def _require_sound_start(self, vector: Tensor, name: str) -> None:
        if self._started and self._observed.loss is not None:
            return
        self._started = True
        wrong = fault_at_start(self.site, self._observed.loss, vector, name)
        if wrong and self._options.stop_on_non_finite:
            raise NonFiniteValue(wrong)

    def _evaluate(self, iteration: int) -> None:
        started = time.perf_counter()
        metrics = self.problem.evaluate(self.estimate)
        if self._agreement:
            self._agreement.evaluated(metrics)
        self._sink.evaluation(Evaluation(iteration, metrics, time.perf_counter() - started))
        self._tell_log(iteration)
