"""Who can compute what of whom from the messages that it gets: linear observability of a run.

A coalition of curious sites knows the mixing matrices, the algorithm, its members' own data and all messages
that they get, each rounded as the wire rounds it. Of everything else it knows only how large such values are.
What it can make of that is the best linear estimate of each unknown; its error, relative to the unknown, is 1
where the messages tell nothing, and about the rounding where they determine it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import networkx as nx
import torch
from torch import Tensor

from flaremesh.privacy.transcript import Transcript, Unknown
from flaremesh.topology.neighborhood import Neighborhood

TOLERANCE: Final = 0.01
"""Relative error up to which a value counts as reconstructed."""


class Reconstruction(NamedTuple):
    """What a coalition finds out.

    Attributes:
        unknown: the first one of its site that it finds out.
        exchanges: after so many exchanges.
        error: relative to the unknown.
        number: of unknowns of that site that it finds out in all exchanges that were looked at.
    """

    unknown: Unknown
    exchanges: int
    error: float
    number: int


def reconstructions(
    transcript: Transcript, coalition: Collection[str], *, roundoff: float, summed: bool = False
) -> list[Reconstruction]:
    """What a coalition can reconstruct of each other site, from the first exchange on in which it can.

    Args:
        transcript: the messages.
        coalition: sites that put together what they know.
        roundoff: relative error of an entry of a message, by the wire's rounding.
        summed: messages are hidden in sums over in-neighbours, where these share masks.
    """
    found: dict[Unknown, tuple[int, float]] = {}
    _View(transcript, coalition, roundoff, summed).search(0, len(transcript.sent), found)
    by_site: dict[str, list[Unknown]] = {}
    for unknown in found:
        by_site.setdefault(unknown.site, []).append(unknown)
    first = {
        site: min(unknowns, key=lambda known: (found[known][0], known)) for site, unknowns in by_site.items()
    }
    return [
        Reconstruction(unknown, *found[unknown], len(by_site[site]))
        for site, unknown in sorted(first.items())
    ]


def messages_to(
    hood: Neighborhood,
    sent: Mapping[str, Tensor],
    coalition: Collection[str],
    groups: Sequence[Collection[str]] | None,
) -> Iterator[Tensor]:
    """What a site gets in an exchange: messages (vectors, ...), or their sums over groups of senders."""
    others = [peer for peer in hood.in_weights if peer not in coalition]
    for group in [[peer] for peer in others] if groups is None else groups:
        yield torch.stack([sent[peer] * hood.in_weights[peer] for peer in group]).sum(dim=0)


def groups_of(
    transcript: Transcript, site: str, exchange: int, coalition: Collection[str]
) -> list[list[str]]:
    """In-neighbours of a site between which masks can hide each one's message from a coalition.

    Two of them share masks if they are neighbours; those who conspire know theirs.
    """
    senders = [peer for peer in transcript.hood(site, exchange).in_weights if peer not in coalition]
    among: nx.Graph[str] = nx.Graph()
    among.add_nodes_from(senders)
    for sender in senders:
        peers = transcript.hood(sender, exchange).in_weights
        among.add_edges_from((sender, peer) for peer in senders if peer in peers)
    return [sorted(group) for group in nx.connected_components(among)]


class _View:
    """What a coalition sees: rows in the unknowns of all others, divided by the lengths of messages."""

    def __init__(self, transcript: Transcript, coalition: Collection[str], roundoff: float, summed: bool):
        self._unknown = [
            place for place, known in enumerate(transcript.unknowns) if not known.is_known_to(coalition)
        ]
        self._names = [transcript.unknowns[place] for place in self._unknown]
        self._roundoff = roundoff
        rows: list[Tensor] = []
        self._until = [0]
        for exchange, sent in enumerate(transcript.sent):
            for site in sorted(coalition):
                hood = transcript.hood(site, exchange)
                groups = groups_of(transcript, site, exchange, coalition) if summed else None
                rows += [row for rows_of in messages_to(hood, sent, coalition, groups) for row in rows_of]
            self._until.append(len(rows))
        seen = torch.stack(rows) if rows else torch.zeros(0, len(transcript.unknowns), dtype=torch.float64)
        # a message is rounded with all that it holds, also what the coalition knows of it
        lengths = torch.linalg.vector_norm(seen, dim=1, keepdim=True).clamp(min=1e-300)
        # told = (basis @ triangle).T, so that the first rows need the first columns alone
        told = (seen / lengths)[:, self._unknown]
        self._basis, self._triangle = torch.linalg.qr(told.T)

    def errors(self, exchanges: int) -> Tensor:
        """Relative errors of the best estimates of all unknowns after so many exchanges.

        With rows A, and σ for the roundoff: the roots of the diagonal of (I + AᵀA/σ²)⁻¹.
        """
        seen = self._until[exchanges]
        rank = min(seen, self._basis.shape[1])
        if not seen:
            return torch.ones(len(self._unknown))
        left, values, _ = torch.linalg.svd(self._triangle[:rank, :seen], full_matrices=False)
        directions = self._basis[:, :rank] @ left
        learnt = values**2 / (values**2 + self._roundoff**2)
        return torch.sqrt((1 - directions**2 @ learnt).clamp(min=0))

    def search(self, low: int, high: int, found: dict[Unknown, tuple[int, float]]) -> None:
        """Find for each unknown that is known after ``high`` exchanges the first one after which it is.

        None is known after ``low`` exchanges that is not found yet.
        """
        errors = self.errors(high)
        known = {
            name: float(errors[place])
            for place, name in enumerate(self._names)
            if isinstance(name, Unknown) and errors[place] <= TOLERANCE
        }
        if not known.keys() - found.keys():
            return
        if high - low > 1:
            middle = (low + high) // 2
            self.search(low, middle, found)
            if known.keys() - found.keys():
                self._later(middle, high, known, found)
            return
        for unknown in known.keys() - found.keys():
            found[unknown] = high, known[unknown]

    def _later(
        self, low: int, high: int, known: Mapping[Unknown, float], found: dict[Unknown, tuple[int, float]]
    ) -> None:
        """As search, where what is known after ``high`` has been computed."""
        if high - low == 1:
            for unknown in known.keys() - found.keys():
                found[unknown] = high, known[unknown]
            return
        middle = (low + high) // 2
        self.search(low, middle, found)
        if known.keys() - found.keys():
            self._later(middle, high, known, found)
