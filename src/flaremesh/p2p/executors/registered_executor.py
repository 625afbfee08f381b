"""A registered algorithm behind the stock package's surface: the base of the named executors."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from typing_extensions import override

from flaremesh import algorithms
from flaremesh.algorithms import Vectors
from flaremesh.gossip import Mixture
from flaremesh.links import LinkError
from flaremesh.links.carrier import Address
from flaremesh.metrics.sink import MetricsSink
from flaremesh.p2p.executors.by_value import RunByValue, flat
from flaremesh.p2p.executors.native_run import NativeRun, algorithm_of, options_of, require_sound_weights
from flaremesh.p2p.executors.ported import MESSAGES, STEPS, overrides
from flaremesh.p2p.executors.sync_executor import SyncAlgorithmExecutor
from flaremesh.p2p.extra import ExtraError, positive, whole
from flaremesh.p2p.types import LocalConfig
from flaremesh.problems.protocol import Problem, SiteContext
from flaremesh.runtime.site_run import SiteRun
from flaremesh.topology.schema import Mixing, Wire


class RegisteredExecutor(SyncAlgorithmExecutor):
    """Runs the registered algorithm ``algorithm_name`` on the problem that a subclass makes.

    Where a subclass at any site overrides a method in `MESSAGES` or `STEPS` of `ported`, all sites exchange
    values by ``_exchange_values`` instead of vectors.

    Args:
        sync_timeout: seconds to wait for the neighbours; None takes the run's ``peer_timeout``.
    """

    algorithm_name: ClassVar[str]

    def __init__(self, sync_timeout: float | None = None) -> None:
        super().__init__(sync_timeout)
        self._iterations: int | None = None
        self._stepsize: float | None = None

    @abstractmethod
    def _make_problem(self, site: SiteContext) -> Problem:
        """The site's objective."""

    def _observe(self, run: SiteRun) -> None:
        """Hook after every iteration, for executors that look at the iterate itself."""

    def _own_sink(self) -> MetricsSink | None:
        """A sink of the executor's own, besides history and metrics; None for none."""
        return None

    def _show_end(self, run: SiteRun) -> None:
        """Hook of the named executors after the last iteration."""

    @override
    def _pre_algorithm_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """Read ``_iterations`` and ``_stepsize``, which subclasses may change, from the run's ``extra``."""
        extra = from_shareable(shareable).data
        if "iterations" in extra or not overrides(self, "run_algorithm"):
            self._iterations = whole(extra, "iterations")
        if extra.get("stepsize") is not None:
            self._stepsize = positive(extra, "stepsize")

    @override
    def run_algorithm(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        """As in RunExecutor; leaves what `NativeRun.go` leaves."""
        part = self._flaremesh
        native = part.native or self._build_run(from_shareable(shareable).data)
        part.outcome = native.go(self._observe)
        self._show_end(native.run)

    @override
    def _configure(self, config: LocalConfig, fl_ctx: FLContext, abort_signal: Signal) -> Address | None:
        if not overrides(self, "run_algorithm"):
            require_sound_weights(self.algorithm_name, config)
        return super()._configure(config, fl_ctx, abort_signal)

    @override
    def _prepare_run(self, fl_ctx: FLContext, shareable: Shareable, abort_signal: Signal) -> None:
        super()._prepare_run(fl_ctx, shareable, abort_signal)
        # a subclass's own run_algorithm may still change what the run is made of
        if not overrides(self, "run_algorithm"):
            self._flaremesh.native = self._build_run(from_shareable(shareable).data)

    @override
    def _algorithm_name(self) -> str:
        return self.algorithm_name

    @override
    def _wants_values(self) -> bool:
        return any(overrides(self, name) for name in MESSAGES | STEPS)

    def _build_run(self, extra: Mapping[str, Any]) -> NativeRun:
        """Build the problem, compute the first gradient, and evaluate the initial point."""
        require_sound_weights(self.algorithm_name, self.config)
        by_value = self._flaremesh.by_value
        options = options_of(extra, self.peer_timeout, self._iterations)
        if by_value and options.wire != Wire():
            raise ExtraError(
                f'{self.client_name}: extra["wire"] is {options.wire.encoding}, and a subclass makes the '
                "messages, which travel as they are; leave wire out, and narrow the values in _to_message"
            )

        if by_value and options.mixing != Mixing():
            raise ExtraError(
                f'{self.client_name}: extra["mixing"] is given, and a subclass mixes the messages itself; '
                "leave mixing out"
            )
        if by_value and options.privacy.secure_aggregation:
            raise ExtraError(
                f'{self.client_name}: extra["privacy"] asks for secure aggregation, and a subclass makes the '
                "messages, one for all neighbours; leave it out"
            )
        if by_value and options.asynchronous:
            raise ExtraError(
                f'{self.client_name}: extra["asynchronous"] is true, and a subclass makes the messages, '
                "for which sites wait; leave it out"
            )

        if by_value and options.privacy.epsilon is not None:
            raise ExtraError(
                f'{self.client_name}: extra["privacy"] has a budget, and a subclass makes the messages, '
                "which might hold more than noised gradients; leave it out"
            )

        def make_problem(site: SiteContext) -> Problem:
            problem = self._make_problem(site)
            if by_value and extra.get("mix_buffers") and problem.buffers() is not None:
                raise ExtraError(
                    f'{self.client_name}: extra["mix_buffers"] is true, and a subclass makes the '
                    "messages, which have no place for buffers; without it each site keeps its own"
                )
            return problem

        make: Callable[..., SiteRun] = SiteRun
        if by_value:
            options = replace(options, mix_buffers=False)
            make = partial(RunByValue, self._exchange_vectors)
        given = dict(extra) if self._stepsize is None else dict(extra) | {"stepsize": self._stepsize}
        return NativeRun(
            self._flaremesh.member,
            self.config,
            self._make_algorithm(given),
            make_problem,
            options,
            whole(extra, "seed", None, 0),
            self._own_sink(),
            make,
            start_timeout=self._flaremesh.start_timeout,
        )

    def _make_algorithm(self, extra: dict[str, Any]) -> algorithms.Algorithm[Any]:
        return algorithm_of(self.algorithm_name, extra)

    def _save_sequence(self, name: str, sequence: Sequence[Any]) -> None:
        """Save a sequence in the run's folder, in the simulator also where the stock package leaves it."""
        arrays = any(isinstance(element, torch.Tensor | np.ndarray) for element in sequence)
        tensor = torch.stack([*map(torch.as_tensor, sequence)]) if arrays else torch.tensor(sequence)
        member = self._flaremesh.member
        for folder in (member.folder, *([Path.cwd()] if member.simulated else [])):
            torch.save(tensor, folder / name)

    def _exchange_vectors(self, vectors: Vectors, iteration: int) -> Mixture:
        """Let a subclass's methods exchange the vectors, and mix what is in ``neighbors_values`` then."""
        with torch.no_grad():
            context = self._flaremesh.context
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
            distance = torch.linalg.vector_norm(mixed[0] - own[0])
            if all(bool(vector.isfinite().all()) for vector in mixed):
                return Mixture(mixed, distance)
            poisoned = [
                neighbor.id
                for neighbor in self.neighbors
                for vector in self._their_vectors(received[neighbor.id], own, neighbor.id)
                if not bool(vector.isfinite().all())
            ]
            return Mixture(mixed, distance, tuple(dict.fromkeys(poisoned)))

    def _their_vectors(self, value: Any, like: Vectors, peer: str) -> Vectors:
        try:
            return self._vectors_of(value, like)
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
            raise LinkError(
                f"{self.client_name}: what _from_message of {type(self).__name__} makes of {peer}'s value "
                f"does not fit the own one: {error}"
            ) from error

    def _value_of(self, vectors: Vectors) -> Any:
        """The value that the stock package's executor would give ``_exchange_values`` for these vectors."""
        return [vector.clone() for vector in vectors]

    def _own_vectors(self, vectors: Vectors) -> Vectors:
        """The own vectors after the exchange, during which a subclass may have changed them."""
        return vectors

    def _vectors_of(self, value: Any, like: Vectors) -> Vectors:
        """The vectors in a neighbour's value, each like the own one.

        Raises:
            ValueError, TypeError: the value has others.
        """
        return tuple(flat([part], own) for part, own in zip(value, like, strict=True))
