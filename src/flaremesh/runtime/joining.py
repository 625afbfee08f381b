"""How a site joins a run that went on without it: at the mean of what its in-neighbours have come to."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from flaremesh.links import Key, Link, LinkError, send_in_time
from flaremesh.runtime.vectors import payload_of, vector_of
from flaremesh.topology.neighborhood import Neighborhood

_ITERATION: Final = -3
"""Number of the messages: -1 and -2 are greetings and initial points."""


@dataclass(frozen=True)
class Joining:
    """The sites that join, and where, so that all must repair their state.

    Attributes:
        iteration: how many iterations the others have done.
        sites: names of those that join; () where they have joined in an attempt that was lost since.
    """

    iteration: int
    sites: Collection[str]

    def tell(self, link: Link, schedule: Sequence[Neighborhood], estimate: Tensor, timeout: float) -> None:
        """Send a site's estimate (d,) to those of its out-neighbours that join; raises LinkError."""
        users = {user for hood in schedule for user in hood.out}.intersection(self.sites)
        for user in sorted(users):
            payload = payload_of(estimate.detach().clone())
            send_in_time(link, user, Key(_ITERATION, 0, schedule[0].site), [payload], timeout)

    def learn(self, link: Link, schedule: Sequence[Neighborhood], initial: Tensor, timeout: float) -> Tensor:
        """Where a site joins: the mean of the estimates (d,) of those in-neighbours that do not join.

        Args:
            link: the site's.
            schedule: its neighbourhood of each phase.
            initial: its initial point (d,), where it joins if it has no such neighbour.
            timeout: seconds to wait for a neighbour.

        Raises:
            LinkError: an estimate does not come, has another length, or is not finite.
        """
        sources = {source for hood in schedule for source in hood.in_weights}.difference(self.sites)
        if not sources:
            return initial
        link.expect(initial.numel() * initial.element_size())
        received = link.receive([Key(_ITERATION, 0, source) for source in sorted(sources)], timeout)
        estimates = [vector_of(payload, initial, key.sender) for key, payload in received.items()]
        for key, estimate in zip(received, estimates, strict=True):
            if not bool(estimate.isfinite().all()):
                raise LinkError(f"{key.sender} sent {schedule[0].site} an estimate that is not finite")
        return torch.stack(estimates).mean(dim=0)
