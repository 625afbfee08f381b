"""One site's part in the mixing of a run: what it sends, and what it makes of what it receives."""

import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from flaremesh.errors import FlaremeshError
from flaremesh.gossip.encodings import Encoding, encodings
from flaremesh.gossip.mixing import Take, Term, Workspace, mix, section
from flaremesh.gossip.public import Publication, PublicCopies, Values
from flaremesh.gossip.staging import bytes_of, staging_for
from flaremesh.links import LinkError, Payload, require_length
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Wire


class GossipError(FlaremeshError):
    """The run's wire does not fit its graph; the message says what to write instead."""


class Mixture(NamedTuple):
    """What a site has mixed.

    Attributes:
        vectors: in the order of the message, in memory of their own.
        distance: 2-norm of Σ_j (w_ij − δ_ij) p_j for the first vector; on a GPU a 0-d tensor.
        poisoned: the in-neighbours of whose vectors one is not finite. It is looked for where a mixture is
            not, and neither on a GPU, which nothing waits for here, nor in a vector that is always exact.
    """

    vectors: tuple[Tensor, ...]
    distance: Tensor | float
    poisoned: tuple[str, ...] = ()


class _Channel:
    """One vector of the message.

    Args:
        like: such a vector (d,).
        encoding: how it is written.
        step: γ; it applies to contractive encodings, the others step by 1.
        start: where it begins in the message, in bytes.
        take: where the memory of results comes from.
    """

    def __init__(self, like: Tensor, encoding: Encoding, step: float, start: int, take: Take):
        self._encoding = encoding
        self._publication: Publication = PublicCopies(encoding) if encoding.contractive else Values(encoding)
        self._step = step if encoding.contractive else 1.0
        self._work = Workspace(like, take)
        self._start, self.stop = start, start + encoding.size(like.numel())

    @property
    def copies(self) -> dict[str, Tensor]:
        """What is kept between iterations, (d,) each, by the site whose vector it is."""
        return self._publication.copies

    def publish(self, vector: Tensor) -> Tensor:
        """The bytes that tell the out-neighbours of ``vector``."""
        self._own = vector
        return self._publication.publish(vector, self._work)

    def check(self, message: Tensor) -> None:
        """Raise ValueError for a message on the CPU whose part for this channel is no vector."""
        self._encoding.check(section(message, self._start, self.stop), self._own.numel())

    def is_finite(self, message: Tensor) -> bool:
        """Whether the vector in a message is finite; ``check`` lets no other difference to a copy pass."""
        if self._encoding.contractive:
            return True
        blocks = self._encoding.decode(section(message, self._start, self.stop), self._own.numel())
        scratch, _ = self._work.scratch
        return all(bool(blocks(*span, scratch).isfinite().all()) for span in self._work.spans)

    def mix(self, hood: Neighborhood, messages: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | float]:
        """The site's next vector (d,), and the 2-norm of what the neighbours' weights move it by.

        Args:
            hood: the site's neighbourhood in this iteration.
            messages: by in-neighbour, the whole message that it sent.
        """
        terms = [Term(hood.self_weight - 1, self._publication.own())]
        for peer, message in messages.items():
            data = section(message, self._start, self.stop)
            terms.append(Term(hood.in_weights[peer], self._publication.of(peer, data)))
        if not terms[0].weight:
            terms.append(terms.pop(0))
        return mix(self._own, terms, self._step, self._work)


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


class Gossip:
    """Mixes one exchange in every iteration of a run: call ``publish``, then ``mix``, once an iteration.

    Args:
        wire: how vectors are written.
        phases: number of neighbourhoods that take turns.
        exact_last: write the last vector of every message as it is.

    Raises:
        GossipError: the neighbourhood changes, and the wire needs one that stays.
    """

    def __init__(self, wire: Wire, phases: int = 1, exact_last: bool = False):
        if reason := wire.unsoundness(phases):
            raise GossipError(reason)
        self._wire = wire
        self._exact_last = exact_last
        self._channels: list[_Channel] = []

    def publish(self, vectors: Sequence[Tensor]) -> list[Payload]:
        """The message that tells the out-neighbours of ``vectors``, all flat, of one dtype and device.

        Nobody may write to the vectors from now on: an exact wire sends them from where they are.
        """
        if not self._channels:
            self._open(vectors)
        with self._threads:
            encoded = [
                channel.publish(vector) for channel, vector in zip(self._channels, vectors, strict=True)
            ]
        return self._staging.download(encoded)

    def mix(self, hood: Neighborhood, received: Mapping[str, Payload]) -> Mixture:
        """Mix what was published last with what the in-neighbours sent.

        Raises:
            LinkError: a message does not fit; names its sender.
        """
        messages = {peer: self._staging.upload(self._message(peer, data)) for peer, data in received.items()}
        with self._threads:
            mixed = [channel.mix(hood, messages) for channel in self._channels]
        return Mixture(tuple(vector for vector, _ in mixed), mixed[0][1], self._poisoned(messages, mixed))

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

    def _poisoned(
        self, messages: Mapping[str, Tensor], mixed: Sequence[tuple[Tensor, Tensor | float]]
    ) -> tuple[str, ...]:
        channels = self._channels[: -1 if self._exact_last else None]
        wrong = [
            channel
            for channel, (_, distance) in zip(channels, mixed, strict=False)
            if isinstance(distance, float) and not math.isfinite(distance)
        ]
        if not wrong:
            return ()
        return tuple(
            peer
            for peer, message in messages.items()
            if not all(channel.is_finite(message) for channel in wrong)
        )

    def _open(self, vectors: Sequence[Tensor]) -> None:
        self._staging = staging_for(vectors[0].device)
        divided = any(vector.numel() >= _DIVIDED for vector in vectors)
        self._threads: AbstractContextManager[None] = _one_thread if divided else nullcontext()
        self._bytes = 0
        for encoding, vector in zip(encodings(self._wire, vectors, self._exact_last), vectors, strict=True):
            channel = _Channel(vector, encoding, self._wire.step, self._bytes, self._staging.take)
            self._channels.append(channel)
            self._bytes = channel.stop

    def _message(self, peer: str, payload: Payload) -> Tensor:
        """A message that has arrived, checked, as bytes on the CPU."""
        require_length(payload, self._bytes, peer)
        message = bytes_of(payload)
        for channel in self._channels:
            try:
                channel.check(message)
            except ValueError as error:
                raise LinkError(f"{peer} sent {error}") from None
        return message
