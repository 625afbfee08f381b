"""When a run ends before its last iteration: once all sites agree that they have come far enough.

After each evaluation the sites pass on what the worst of them has, from neighbour to neighbour. After as many
rounds as there are edges between the two that are farthest apart, all know the same values, decide the same
by them, and are in the same iteration. The server only tells how far apart the sites are.
"""

import math
import struct
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from flaremesh.errors import FlaremeshError
from flaremesh.links import Key, Link, LinkError, require_length, send_in_time
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Privacy, Until

Ending: TypeAlias = Literal["target", "plateau", "budget"]
"""What ended a run before its last iteration: one of its conditions, or its privacy budget."""

_FIRST_ROUND: Final = 1 << 15
"""Its number as an exchange of the iteration that is to begin: those of algorithms are less."""

_LESS_IS_BETTER = ("loss", "error", "perplexity")


class UntilError(FlaremeshError):
    """A run cannot tell whether it has come to what it is to reach."""


def falls(metric: str) -> bool:
    """Whether less of a metric is better: what is named a loss, an error or a perplexity comes from above."""
    return any(word in metric.lower() for word in _LESS_IS_BETTER)


def conditions(until: Until) -> dict[Ending, str]:
    """What ends a run, in words."""
    words: dict[Ending, str] = {}
    if until.targets:
        targets = " and ".join(f"{metric} {value:g}" for metric, value in until.targets.items())
        words["target"] = f"reached {targets} at all sites"
    if plateau := until.plateau:
        words["plateau"] = f"no better {plateau.metric} at the worst site in {plateau.iterations} iterations"
    return words


def reason(
    until: Until | None, ending: Ending | None, iteration: int, privacy: Privacy | None = None
) -> str | None:
    """Why a run has ended after so many iterations, in words; None where it cannot have ended so."""
    words = conditions(until).get(ending) if ending and until else None
    if ending == "budget" and privacy and privacy.epsilon is not None:
        words = f"every site has spent its privacy budget, ε {privacy.epsilon:g} (δ {privacy.delta:g}),"
    return f"{words} after iteration {iteration}" if words else None


class Agreement:
    """What all sites have come to, as each of them knows it after every evaluation.

    Values are scores: more is better, and a metric that falls counts with its sign turned.

    Args:
        until: what ends the run.
        link: the site's.
        schedule: its neighbourhood of each phase; messages go along the edges of all.
        hops: the most edges on the way from one site to another; None where there is no way, or nobody says.
        timeout: seconds to wait for a neighbour.

    Attributes:
        ending: which condition all sites have met; None for none.

    Raises:
        UntilError: the sites cannot agree.
    """

    def __init__(
        self, until: Until, link: Link, schedule: Sequence[Neighborhood], hops: int | None, timeout: float
    ):
        self._until, self._link, self._timeout = until, link, timeout
        self._site = schedule[0].site
        self._users = sorted({user for hood in schedule for user in hood.out})
        self._sources = sorted({source for hood in schedule for source in hood.in_weights})
        if not hops and (self._users or self._sources):
            raise UntilError(
                f"{self._site} cannot agree with all other sites when the run ends: there is no way to some "
                "of them, or nobody says how far they are; remove run.until"
            )
        self._rounds = range(_FIRST_ROUND, _FIRST_ROUND + (hops or 0))
        self._form = struct.Struct(f"<{len(until.metrics)}d")
        self._own: list[float] = []
        self._best: dict[str, tuple[float, int]] = {}  # of the worst site, and after how many iterations
        self.ending: Ending | None = None
        link.expect(self._form.size)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Take in what the site has come to; raises UntilError where that lacks a metric."""
        for name in self._until.metrics:
            if name not in metrics:
                raise UntilError(
                    f"run.until asks for {name}, and the problem of {self._site} evaluates "
                    f"{', '.join(metrics) or 'nothing'}"
                )
        self._own = [_score(name, metrics[name]) for name in self._until.metrics]

    def reach(self, iteration: int) -> Generator[None, None, bool]:
        """Agree on the last evaluation; it pauses after each message, as SiteRun.turns does.

        Args:
            iteration: how many iterations are done, at all sites.

        Returns:
            Whether the first metric has never been better at the site where it is worst.

        Raises:
            LinkError: the scores of a neighbour did not come, or are none.
        """
        worst = self._own
        for stage in self._rounds:
            for user in self._users:
                key = Key(iteration, stage, self._site)
                send_in_time(self._link, user, key, [self._form.pack(*worst)], self._timeout)
            yield
            keys = [Key(iteration, stage, source) for source in self._sources]
            for key, payload in self._link.receive(keys, self._timeout).items():
                require_length(payload, self._form.size, key.sender)
                theirs = self._form.unpack(payload)
                if any(map(math.isnan, theirs)):
                    raise LinkError(f"{key.sender} sent {self._site} scores that are no numbers")
                worst = [*map(min, worst, theirs)]
        return self._take(iteration, dict(zip(self._until.metrics, worst, strict=True)))

    def _take(self, iteration: int, worst: Mapping[str, float]) -> bool:
        better = [name for name, score in worst.items() if score > self._best.get(name, (-math.inf, 0))[0]]
        self._best |= {name: (worst[name], iteration) for name in better}
        targets, plateau = self._until.targets, self._until.plateau
        if targets and all(worst[name] >= _score(name, value) for name, value in targets.items()):
            self.ending = "target"
        elif plateau and iteration - self._best.get(plateau.metric, (0.0, 0))[1] >= plateau.iterations:
            self.ending = "plateau"
        return self._until.metrics[0] in better

    def snapshot(self) -> dict[str, Any]:
        """What is kept between evaluations."""
        return dict(self._best)

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot; raises TypeError or ValueError where it is none."""
        self._best = {str(name): (float(score), int(since)) for name, (score, since) in snapshot.items()}


def _score(metric: str, value: float) -> float:
    if math.isnan(value):
        return -math.inf
    return -value if falls(metric) else value
