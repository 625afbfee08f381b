"""The records of a run's iterations and evaluations, and the sinks that receive them."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Protocol, TypeAlias

from pydantic import AliasChoices, Field
from typing_extensions import override

from flaremesh.record import Name, Number, Seconds, Whole, at_most

MOST_METRICS: Final = 256
"""So many metrics may one evaluation have."""

Metrics: TypeAlias = Annotated[Mapping[Name, Number], at_most(MOST_METRICS)]
"""What an evaluation found, by name."""


@dataclass(frozen=True)
class Iteration:
    """One finished iteration of one site.

    Attributes:
        iteration: 1 after the first iteration.
        loss: training loss on the mini-batch; None without a gradient, and in a file where it is not finite.
        consensus_distance: ‖x_i − Σ_j w_ij x_j‖₂ before the step, where x_i is the first vector of the first
            exchange. It is what a site can know of ‖X − JX‖.
        seconds: of the iteration, wall clock. Those below are parts of it, summed over all exchanges.
        wait_seconds: of that, waiting for neighbours.
        gradient_seconds: of that, computing gradients.
        overlap_seconds: of that, own work while an exchange was under way. Where there is still something to
            wait for, overlap / (overlap + wait) of the exchanges' time is hidden behind work.
        send_seconds: of that, encoding the message and handing it to the links.
        mix_seconds: of that, decoding the neighbours' messages and mixing.
        finite: neither loss, distances nor what is sent next has a NaN or an infinity.
    """

    iteration: Whole
    loss: float | None
    consensus_distance: Number
    seconds: Seconds
    wait_seconds: Seconds
    gradient_seconds: Seconds
    overlap_seconds: Seconds = 0.0
    send_seconds: Seconds = 0.0
    mix_seconds: Seconds = 0.0
    finite: bool = True


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one site's estimate.

    Attributes:
        iteration: how many iterations were done before; 0 for the initial point.
        metrics: by name, in the units that the problem chooses; older files call them ``evaluation``.
        seconds: that it took, wall clock.
    """

    iteration: Whole
    metrics: Annotated[Metrics, Field(validation_alias=AliasChoices("metrics", "evaluation"))]
    seconds: Seconds = 0.0


@dataclass(frozen=True)
class Logged:
    """What a site's own training has logged at one of its steps, beside the run's own records.

    Attributes:
        iteration: how many iterations were done, or 0 before the first.
        step: the step that it named; the iteration where it named none.
        logged: by name.
    """

    iteration: Whole
    step: Whole
    logged: Metrics


@dataclass(frozen=True)
class Norms:
    """Norms that cost too much to be taken in every iteration: once a second at most; exported, not kept.

    Attributes:
        iteration: as in Iteration.
        gradient: 2-norm of the iteration's gradient, None without one.
        innovation: 2-norm of what the site added to the mixture, u_i in m_i⁺ = Σ_j w_ij m_j + u_i, where m_i
            is the first vector of an iteration's first message. It is what keeps the sites apart: ‖(I − W)M‖
            settles below 2‖U‖/(1 − ρ). Of a vector longer than half a million entries it is an estimate, from
            so many of them, drawn at random.
    """

    iteration: int
    gradient: float | None
    innovation: float


def numbers_of(record: Iteration | Evaluation | Logged) -> tuple[int, dict[str, float]]:
    """What programs that compare runs are told of a record: its step, and all that is finite, by name."""
    step, values = record.iteration, dict[str, float | None]()
    if isinstance(record, Evaluation):
        values |= record.metrics
    elif isinstance(record, Logged):
        step, values = record.step, dict(record.logged)
    else:
        values |= {"training loss": record.loss, "consensus distance": record.consensus_distance}
    return step, {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


class Traffic(Protocol):
    """What links count; see flaremesh.links.traffic.TrafficCounter."""

    sent_messages: Counter[str]
    sent_bytes: Counter[str]
    received_bytes: Counter[str]
    waits: dict[str, float]
    refusals: Counter[tuple[str, str]]
    links: dict[str, str]
    worse: dict[str, bool]
    changes: Counter[tuple[str, str]]


class Written(Protocol):
    """What becomes of checkpoints; see flaremesh.runtime.checkpointing.Checkpointing."""

    written_at: float | None
    failures: int


class Spending(Protocol):
    """What a run spends of a privacy budget; see flaremesh.privacy.noise.NoisedGradient."""

    @property
    def epsilon(self) -> float:
        """ε that is spent."""

    @property
    def rdp(self) -> float:
        """Rényi divergence of order α that is spent, divided by α."""

    @property
    def most_epsilon(self) -> float:
        """ε that may be."""


class MetricsSink(Protocol):
    """Receives what happens in a run; called from the loop, so it must be quick."""

    def iteration(self, record: Iteration) -> None:
        """After every iteration."""

    def evaluation(self, record: Evaluation) -> None:
        """After every evaluation."""

    def logged(self, record: Logged) -> None:
        """After the iteration or evaluation in which it was logged; not of interest to every sink."""

    def norms(self, record: Norms) -> None:
        """Once a second at most, after an iteration."""


class Fanout(MetricsSink):
    """Passes every record on to several sinks, in order."""

    def __init__(self, *sinks: MetricsSink):
        self._sinks = sinks

    @override
    def iteration(self, record: Iteration) -> None:
        for sink in self._sinks:
            sink.iteration(record)

    @override
    def evaluation(self, record: Evaluation) -> None:
        for sink in self._sinks:
            sink.evaluation(record)

    @override
    def logged(self, record: Logged) -> None:
        for sink in self._sinks:
            sink.logged(record)

    @override
    def norms(self, record: Norms) -> None:
        for sink in self._sinks:
            sink.norms(record)
