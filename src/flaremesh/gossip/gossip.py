"""One site's part in the mixing of a run: what it sends, and what it makes of what it receives."""

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from flaremesh.errors import FlaremeshError
from flaremesh.gossip.clipping import clipped, clipped_away, distances
from flaremesh.gossip.encodings import Encoding, encodings, spans
from flaremesh.gossip.mixing import Span, Take, Term, Workspace, joined, mix, section, within
from flaremesh.gossip.public import Publication, PublicCopies, Values
from flaremesh.gossip.staging import bytes_of, staging_for
from flaremesh.links import LinkError, Payload, require_length
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Clip, Wire


class GossipError(FlaremeshError):
    """The run's wire does not fit its graph; the message says what to write instead."""


_NONE: Mapping[str, float] = MappingProxyType({})


class Mixture(NamedTuple):
    """What a site has mixed.

    Attributes:
        vectors: in the order of the message, in memory of their own.
        distance: 2-norm of Σ_j (w_ij − δ_ij) p_j for the first vector; on a GPU a 0-d tensor.
        poisoned: the in-neighbours of whose vectors one is not finite. It is looked for where a mixture is
            not, and neither on a GPU, which nothing waits for here, nor in a vector that is always exact.
            Where mixing is clipped it is looked for where a distance is not finite, on a GPU too.
        clipped: by in-neighbour that was clipped, the share of its weight that was taken away; of several
            vectors the greatest.
    """

    vectors: tuple[Tensor, ...]
    distance: Tensor | float
    poisoned: tuple[str, ...] = ()
    clipped: Mapping[str, float] = _NONE


class _Channel:
    """One vector of the message.

    Args:
        like: such a vector (d,).
        encoding: how it is written.
        step: γ; it applies to contractive encodings, the others step by 1.
        take: where the memory of results comes from.
        averaged: mix to the mean of the neighbourhood.
        is_sum: whether the vector is a share of a sum over all sites.
    """

    def __init__(
        self, like: Tensor, encoding: Encoding, step: float, take: Take, *, averaged: bool, is_sum: bool
    ):
        self._encoding = encoding
        self._averaged, self._is_sum = averaged, is_sum
        self._publication: Publication = PublicCopies(encoding) if encoding.contractive else Values(encoding)
        self._step = step if encoding.contractive else 1.0
        self._work = Workspace(like, take)
        self._norms: list[Tensor | float] = []
        self._apart: dict[str, list[Tensor | float]] = {}
        self._clipped: Neighborhood | None = None

    @property
    def copies(self) -> dict[str, Tensor]:
        """What is kept between iterations, (d,) each, by the site whose vector it is."""
        return self._publication.copies

    def size(self, span: Span) -> int:
        """Bytes of a part."""
        start, stop = span
        return self._encoding.size(stop - start)

    def publish(self, vector: Tensor, span: Span) -> Tensor:
        """The bytes that tell the out-neighbours of a part of ``vector``."""
        self._own = vector
        return self._publication.publish(vector, span, self._work)

    def check(self, data: Tensor, span: Span) -> None:
        """Raise ValueError for bytes on the CPU that are no part of a vector."""
        start, stop = span
        self._encoding.check(data, stop - start)

    def is_finite(self, data: Tensor, span: Span) -> bool:
        """Whether a part is finite; ``check`` lets no other difference to a copy pass."""
        if self._encoding.contractive:
            return True
        start, stop = span
        blocks, (scratch, _) = self._encoding.decode(data, stop - start), self._work.scratch
        return all(bool(blocks(*each, scratch).isfinite().all()) for each in self._work.spans(stop - start))

    def measure(self, received: Mapping[str, Tensor], span: Span, finite_only: bool) -> None:
        """Measure, before it is mixed, how far one part is from the site's own; see `clipping.distances`."""
        own = self._publication.own(span)
        others = {peer: self._publication.of(peer, data, span) for peer, data in received.items()}
        if not span[0]:
            self._apart = {peer: [] for peer in received}
        norms = distances(own, others, span[1] - span[0], self._work, finite_only)
        for peer, found in norms.items():
            self._apart[peer] += found

    def clip(self, hood: Neighborhood, clip: Clip) -> tuple[dict[str, float], dict[str, float]]:
        """Clip the vector, of which all parts were measured, when it is mixed; waits for the GPU.

        Returns:
            By in-neighbour ‖p_j − p_i‖, and what `clipped_away` says.
        """
        hood = hood.averaging if self._averaged else hood
        apart = {peer: float(joined(norms)) for peer, norms in self._apart.items()}
        self._clipped = clipped(hood, apart, clip)
        return apart, clipped_away(hood, self._clipped)

    def mix(
        self, hood: Neighborhood, received: Mapping[str, Tensor], span: Span, shared: float | None
    ) -> bool:
        """Mix one part; returns whether it is finite, where that is known at once.

        Args:
            hood: the site's neighbourhood in this iteration.
            received: by in-neighbour, the bytes of its part.
            span: the part.
            shared: as Gossip.mix has it.
        """
        hood = hood.averaging if self._averaged else hood
        if again := self._clipped is not None:
            hood = self._clipped
            received = {peer: data for peer, data in received.items() if peer in hood.in_weights}
        given = 1 - hood.self_weight if shared is None or not self._is_sum else shared
        terms = [Term(-given, self._publication.own(span, again))]
        for peer, data in received.items():
            terms.append(Term(hood.in_weights[peer], self._publication.of(peer, data, span, again)))
        if not terms[0].weight:
            terms.append(terms.pop(0))
        self._lead = terms[0].weight
        if not span[0]:  # not before the neighbours have sent, and so let go of the memory of the last vector
            self._mixed = self._work.take(self._own.numel(), self._own.dtype)
            self._norms.clear()
        own, mixed = section(self._own, *span), section(self._mixed, *span)
        norms = mix(own, terms, self._step, self._work, mixed)
        self._norms += norms
        return own.is_cuda or all(map(math.isfinite, norms))

    def end(self) -> tuple[Tensor, Tensor | float]:
        """The site's next vector (d,), and the 2-norm of what the neighbours' weights move it by."""
        mixed = self._mixed
        del self._mixed  # it is the caller's, and its memory is used again once he lets go
        return mixed, abs(self._lead) * joined(self._norms)


class _Piece(NamedTuple):
    """What a part has of one vector: the entries of ``span``, in the bytes of ``place``."""

    channel: _Channel
    span: Span
    place: Span

    def of(self, part: Tensor) -> Tensor:
        """Its bytes in those of the part."""
        return section(part, *self.place)


class _OneThread:
    """Keeps torch from dividing blocks between threads while a site mixes.

    torch's threads wait for each other after each block, and so for any whose core the links use to encrypt.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mixing = 0  # number of sites in this process that are mixing
        self._threads = 1

    def __enter__(self) -> None:
        with self._lock:
            if not self._mixing:
                self._threads = torch.get_num_threads()
                self._set(1)
            self._mixing += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._mixing -= 1
            if not self._mixing:
                self._set(self._threads)

    def _set(self, threads: int) -> None:
        if self._threads > 1:
            torch.set_num_threads(threads)


_one_thread = _OneThread()
_DIVIDED = 1 << 15  # from so many entries on, torch divides the work on a vector between threads


def threads_for(vectors: Sequence[Tensor]) -> AbstractContextManager[None]:
    """In which such vectors are mixed: in one thread, if torch would take several."""
    return _one_thread if any(vector.numel() >= _DIVIDED for vector in vectors) else nullcontext()


class Gossip:
    """Mixes one exchange in every iteration of a run: call ``publish``, then ``mix``, once an iteration.

    Args:
        wire: how vectors are written.
        phases: number of neighbourhoods that take turns.
        exact_last: write the last vector of every message as it is.
        averaged: so many of the first vectors are mixed to the mean of the neighbourhood.
        sums: so many of the last vectors, but for the one that is exact, are shares of a sum over all sites.
        clip: clip each vector of a message to this distance from the site's own, or to one that fits
            ("auto", with two in-neighbours or more); None for none.

    Raises:
        GossipError: the neighbourhood changes, and the wire needs one that stays.
    """

    def __init__(
        self,
        wire: Wire,
        phases: int = 1,
        exact_last: bool = False,
        averaged: int = 0,
        sums: int = 0,
        clip: Clip | None = None,
    ):
        if reason := wire.unsoundness(phases):
            raise GossipError(reason)
        self._wire = wire
        self._exact_last = exact_last
        self._averaged, self._sums = averaged, sums
        self._clip = clip
        self._channels: list[_Channel] = []
        self._parts: list[list[_Piece]] = []

    def publish(self, vectors: Sequence[Tensor]) -> Iterator[list[Payload]]:
        """The message that tells the out-neighbours of ``vectors``, all flat, of one dtype and device.

        It comes in parts, each of which is made when it is asked for. Nobody may write to the vectors from
        now on: an exact wire sends them from where they are.
        """
        if not self._channels:
            self._open(vectors)
        of = dict(zip(self._channels, vectors, strict=True))
        for part in self._parts:
            with self._threads:
                encoded = [channel.publish(of[channel], span) for channel, span, _ in part]
            yield self._staging.download(encoded)

    def mix(
        self, hood: Neighborhood, received: Iterable[Mapping[str, Payload]], shared: float | None = None
    ) -> Mixture:
        """Mix what was published last with what the in-neighbours sent.

        Each part is mixed as it comes; where mixing is clipped, once all parts of all neighbours are there.

        Args:
            hood: the site's neighbourhood in this iteration.
            received: each part, by in-neighbour.
            shared: how much of its share of a sum the out-neighbours get, where that is not 1 − w_ii.

        Raises:
            LinkError: a part does not fit; names its sender.
        """
        parts = zip(self._parts, received, strict=True)
        poisoned: set[str] = set()
        away = _NONE
        if self._clip is None:
            for part, payloads in parts:
                poisoned |= self._mix_part(part, hood, self._arrived(part, payloads), shared)
        else:
            arrived = [self._arrived(part, payloads) for part, payloads in parts]
            poisoned, away = self._clipped(hood, arrived, self._clip)
            for part, messages in zip(self._parts, arrived, strict=True):
                poisoned |= self._mix_part(part, hood, messages, shared)
        mixed = [channel.end() for channel in self._channels]
        return Mixture(tuple(vector for vector, _ in mixed), mixed[0][1], tuple(sorted(poisoned)), away)

    def snapshot(self) -> list[dict[str, Tensor]]:
        """What is kept between iterations, copied: for each vector of the message, public copies by site."""
        return [{site: copy.clone() for site, copy in channel.copies.items()} for channel in self._channels]

    def restore(self, like: Sequence[Tensor], snapshot: Sequence[Mapping[str, Tensor]]) -> None:
        """Go on from a snapshot, before anything is published.

        Args:
            like: vectors (d,) such as will be published.
            snapshot: of a site with the same wire.

        Raises:
            ValueError: the snapshot does not fit the vectors.
        """
        if not snapshot:
            return  # nothing was published by then
        self._open(like)
        for vector, channel, copies in zip(like, self._channels, snapshot, strict=True):
            for site, copy in copies.items():
                if (copy.shape, copy.dtype) != (vector.shape, vector.dtype):
                    raise ValueError(f"a copy of {tuple(copy.shape)} of a vector of {tuple(vector.shape)}")
                channel.copies[site] = copy.to(vector.device)

    def _arrived(self, part: Sequence[_Piece], payloads: Mapping[str, Payload]) -> dict[str, Tensor]:
        """One part by in-neighbour, checked, where the vectors are."""
        return {
            peer: self._staging.upload(self._checked(part, peer, data)) for peer, data in payloads.items()
        }

    def _clipped(
        self, hood: Neighborhood, arrived: Sequence[Mapping[str, Tensor]], clip: Clip
    ) -> tuple[set[str], dict[str, float]]:
        """Clip all vectors, of which all parts are there.

        Returns:
            The in-neighbours that have poisoned one, and by in-neighbour the greatest share clipped away.
        """
        pieces = [
            (piece, messages) for part, messages in zip(self._parts, arrived, strict=True) for piece in part
        ]
        last = self._channels[-1] if self._exact_last else None
        with self._threads:
            for piece, messages in pieces:
                theirs = {peer: piece.of(data) for peer, data in messages.items()}
                piece.channel.measure(theirs, piece.span, finite_only=piece.channel is last)
        apart, away = {}, dict[str, float]()
        for channel in self._channels:
            apart[channel], gone = channel.clip(hood, clip)
            away |= {peer: max(share, away.get(peer, 0.0)) for peer, share in gone.items()}
        poisoned = {
            peer
            for piece, messages in pieces
            for peer, data in messages.items()
            if not math.isfinite(apart[piece.channel][peer])
            and not piece.channel.is_finite(piece.of(data), piece.span)
        }
        return poisoned, away

    def _mix_part(
        self,
        part: Sequence[_Piece],
        hood: Neighborhood,
        received: Mapping[str, Tensor],
        shared: float | None,
    ) -> set[str]:
        """Mix one part; returns the in-neighbours that have poisoned it."""
        with self._threads:
            wrong = [
                piece
                for piece in part
                if not piece.channel.mix(
                    hood, {peer: piece.of(data) for peer, data in received.items()}, piece.span, shared
                )
            ]
        if self._exact_last:
            wrong = [piece for piece in wrong if piece.channel is not self._channels[-1]]
        return {
            peer
            for piece in wrong
            for peer, data in received.items()
            if not piece.channel.is_finite(piece.of(data), piece.span)
        }

    def _open(self, vectors: Sequence[Tensor]) -> None:
        self._staging = staging_for(vectors[0].device)
        self._threads = threads_for(vectors)
        chosen = encodings(self._wire, vectors, self._exact_last)
        last = len(vectors) - self._exact_last
        for number, (encoding, vector) in enumerate(zip(chosen, vectors, strict=True)):
            channel = _Channel(
                vector,
                encoding,
                self._wire.step,
                self._staging.take,
                averaged=number < self._averaged,
                is_sum=last - self._sums <= number < last,
            )
            self._channels.append(channel)
        for span in spans(vectors):
            part, start = [], 0
            for channel, vector in zip(self._channels, vectors, strict=True):
                entries = within(span, vector.numel())
                if entries[0] < entries[1]:
                    stop = start + channel.size(entries)
                    part.append(_Piece(channel, entries, (start, stop)))
                    start = stop
            self._parts.append(part)

    def _checked(self, part: Sequence[_Piece], peer: str, payload: Payload) -> Tensor:
        """A part that has arrived, checked, as bytes on the CPU."""
        require_length(payload, part[-1].place[1], peer)
        data = bytes_of(payload)
        for piece in part:
            try:
                piece.channel.check(piece.of(data), piece.span)
            except ValueError as error:
                raise LinkError(f"{peer} sent {error}") from None
        return data
