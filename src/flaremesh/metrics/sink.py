"""What a run tells about itself, and who may listen."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Iteration:
    """One finished iteration of one site.

    Attributes:
        iteration: 1 after the first iteration.
        loss: training loss on the mini-batch, None without a gradient.
        consensus_distance: ‖x_i − Σ_j w_ij x_j‖₂ before the update: what a site can know of ‖X − JX‖.
        seconds: wall clock of the iteration.
        wait_seconds: of that, waiting for neighbours.
        gradient_seconds: of that, computing gradients.
        overlap_seconds: of that, own work between sending and waiting. Where something is left to wait for,
            overlap / (overlap + wait) of the exchange is hidden behind it.
        send_seconds: of that, encoding the message and handing it to the links.
        mix_seconds: of that, decoding the neighbours' messages and mixing.
        finite: neither loss, distance nor estimate has a NaN or an infinity.
    """

    iteration: int
    loss: float | None
    consensus_distance: float
    seconds: float
    wait_seconds: float
    gradient_seconds: float
    overlap_seconds: float = 0.0
    send_seconds: float = 0.0
    mix_seconds: float = 0.0
    finite: bool = True


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a site's estimate after ``iteration`` iterations, and how long it took to find them."""

    iteration: int
    metrics: Mapping[str, float]
    seconds: float = 0.0


@dataclass(frozen=True)
class Norms:
    """Norms that cost too much to be taken in every iteration: one a second at most.

    Attributes:
        iteration: as in Iteration.
        gradient: 2-norm of the iteration's gradient, None without one.
        innovation: 2-norm of what the site added to the mix, u_i in m_i⁺ = Σ_j w_ij m_j + u_i, where m_i is
            the first vector of its message. It keeps the sites apart: ‖(I − W)M‖ settles below 2‖U‖/(1 − ρ).
    """

    iteration: int
    gradient: float | None
    innovation: float


class Traffic(Protocol):
    """What links count; see flaremesh.links.traffic.TrafficCounter."""

    sent_messages: Counter[str]
    sent_bytes: Counter[str]
    received_bytes: Counter[str]
    waits: dict[str, float]
    refusals: Counter[tuple[str, str]]
    links: dict[str, str]
    wanted: dict[str, str]


class MetricsSink(Protocol):
    """Receives what happens in a run; called from the loop, so it must be quick."""

    def iteration(self, record: Iteration) -> None:
        """After every iteration."""

    def evaluation(self, record: Evaluation) -> None:
        """After every evaluation."""

    def norms(self, record: Norms) -> None:
        """Once a second at most, after an iteration."""


class Fanout:
    """Passes every record on to several sinks, in order."""

    def __init__(self, *sinks: MetricsSink):
        self._sinks = sinks

    def iteration(self, record: Iteration) -> None:
        """See MetricsSink.iteration."""
        for sink in self._sinks:
            sink.iteration(record)

    def evaluation(self, record: Evaluation) -> None:
        """See MetricsSink.evaluation."""
        for sink in self._sinks:
            sink.evaluation(record)

    def norms(self, record: Norms) -> None:
        """See MetricsSink.norms."""
        for sink in self._sinks:
            sink.norms(record)
