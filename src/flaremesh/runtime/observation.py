"""What is measured of one iteration of a site while it goes on."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from flaremesh.algorithms import Vectors
from flaremesh.metrics.sink import Iteration, Norms
from flaremesh.runtime.vectors import floats

# runs of entries that stand for a longer vector: a copy of a large model is much memory, and to read single
# entries all over it takes as long as to read all
_RUNS, _RUN = 1 << 13, 64
_SECONDS = ("send_seconds", "wait_seconds", "gradient_seconds", "overlap_seconds", "mix_seconds")


@dataclass
class Observation:
    """One iteration, from which metrics.sink.Iteration is made.

    Its seconds are summed over its exchanges. The algorithm's work overlaps while at least one of them is
    under way. The consensus distance that is recorded is that of the first exchange.

    Attributes:
        iteration: its number, from 0.
        started: by ``time.perf_counter``, as is ``since``.
        distances: ‖x_i − Σ_j w_ij x_j‖ for the first vector of each exchange; zero till it is mixed.
        look: whether to take norms.
        since: when the algorithm last went on, after it had sent or waited.
        under_way: exchanges that are sent and not mixed yet, numbered from 0.
        loss: that of the last gradient.
        send_seconds, wait_seconds, gradient_seconds, overlap_seconds, mix_seconds: as in Iteration, so far.
        gradient_norm: that of the last gradient, if it is to be taken.
        mixture: first vector of the first exchange's mixture, or a sample of it, if norms are to be taken.
    """

    iteration: int
    started: float
    distances: list[Tensor | float]
    look: bool
    since: float = 0.0
    under_way: set[int] = field(default_factory=set)
    loss: Tensor | None = None
    send_seconds: float = 0.0
    wait_seconds: float = 0.0
    gradient_seconds: float = 0.0
    overlap_seconds: float = 0.0
    mix_seconds: float = 0.0
    gradient_norm: Tensor | None = None
    mixture: Tensor | None = None

    def pause_own_work(self) -> float:
        """Call it before the algorithm sends or waits; returns the time, and adds up what overlapped."""
        now = time.perf_counter()
        if self.under_way:
            self.overlap_seconds += now - self.since
        return now

    def record(self, message: Vectors) -> Iteration:
        """The record of the iteration; ``message`` is the next one to be sent, checked to be finite."""
        loss, distance, finite = self._read(message)
        return Iteration(
            iteration=self.iteration + 1,
            loss=loss,
            consensus_distance=distance,
            seconds=time.perf_counter() - self.started,
            wait_seconds=self.wait_seconds,
            gradient_seconds=self.gradient_seconds,
            overlap_seconds=self.overlap_seconds,
            send_seconds=self.send_seconds,
            mix_seconds=self.mix_seconds,
            finite=finite,
        )

    def keep(self, mixture: Tensor) -> None:
        """Keep of the first exchange's first mixture what `norms` needs: its memory is the algorithm's."""
        self.mixture = _sample(mixture).clone()

    def norms(self, message: Vectors) -> Norms:
        """The norms of the iteration, if ``message`` is the next one's first; overwrites the mixture."""
        assert self.mixture is not None, "every algorithm mixes"
        stands_for = message[0].numel() / self.mixture.numel()
        innovation = torch.linalg.vector_norm(self.mixture.sub_(_sample(message[0]))) * math.sqrt(stands_for)
        if self.gradient_norm is None:
            return Norms(self.iteration + 1, None, *floats(innovation))
        return Norms(self.iteration + 1, *floats(self.gradient_norm, innovation))

    def snapshot(self) -> dict[str, Any]:
        """What its record is made of, once everything is mixed, as numbers; of the seconds, those so far."""
        return {
            "loss": None if self.loss is None else float(self.loss),
            "distances": floats(*self.distances),
            "seconds": time.perf_counter() - self.started,
            **{name: getattr(self, name) for name in _SECONDS},
        }

    @classmethod
    def restored(cls, iteration: int, snapshot: Mapping[str, Any]) -> Self:
        """The iteration of that number again; it takes no norms.

        Raises:
            KeyError, TypeError, ValueError: the snapshot is none.
        """
        loss = snapshot["loss"]
        observed = cls(
            iteration,
            time.perf_counter() - float(snapshot["seconds"]),
            [float(distance) for distance in snapshot["distances"]],
            look=False,
            loss=None if loss is None else torch.tensor(float(loss), dtype=torch.float64),
        )
        for name in _SECONDS:
            setattr(observed, name, float(snapshot[name]))
        return observed

    def _read(self, message: Vectors) -> tuple[float | None, float, bool]:
        """Loss and consensus distance, and whether they and the message are finite."""
        if self.loss is None:  # the message is made of mixtures, which are finite if their distances are
            values = floats(*self.distances)
            return None, values[0], all(map(math.isfinite, values))
        # the message, not the estimate: its receivers would be blamed for what is not finite in it
        values = floats(self.loss, *self.distances, *map(_sum, message))
        return values[0], values[1], all(map(math.isfinite, values))


def _sample(vector: Tensor) -> Tensor:
    """Entries that stand for the vector, which are always the same ones; all of them where they are few."""
    runs = vector.numel() // _RUN
    if runs <= _RUNS:
        return vector
    # at random, because a model repeats itself at regular distances
    where = torch.randint(runs, (_RUNS,), generator=torch.Generator().manual_seed(runs))
    return vector[: runs * _RUN].view(runs, _RUN)[where.to(vector.device)]


def _sum(vector: Tensor) -> Tensor:
    """The sum, which is not finite if any entry is not; it takes half the time of the extremes.

    Finite entries so great that their sum overflows count as not finite, too.
    """
    # half precision would overflow at 65504
    return vector.sum(dtype=torch.float32) if vector.dtype is torch.float16 else vector.sum()
