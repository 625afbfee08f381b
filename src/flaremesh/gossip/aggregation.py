"""Secure aggregation: a site learns the weighted sum of its neighbours' vectors, and no single one of them.

Bonawitz et al. 2017, Practical Secure Aggregation for Privacy-Preserving Machine Learning, section 4, without
a server: the in-neighbours j of a site i send it w_ij m_j as integers on a common grid, modulo 2³² or 2⁶⁴.
For each two of them that are neighbours of each other, one adds and the other subtracts the same words of a
keystream that i does not know. So the masks cancel in the sum, to the last bit. As each of them is uniform,
what one neighbour sends tells nothing; with the others' it tells the sum.

A grid has an end. So before each exchange every site tells its neighbours how great its vectors are, and
answers with the step of the finest grid on which their sum does not wrap around, unless they have heard all
that it has heard. Behind the vectors of a part comes a check, zero at each of its senders: a sum whose masks
have not cancelled, as they do not where senders were asked for several grids, does not have it.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flaremesh.errors import FlaremeshError
from flaremesh.gossip.encodings import spans
from flaremesh.gossip.gossip import Mixture, threads_for
from flaremesh.gossip.mixing import Blocks, Span, Term, Workspace, entries_of, joined, mix, section, within
from flaremesh.gossip.staging import HostStaging, bytes_of, staging_for
from flaremesh.links import LinkError, Payload, require_length
from flaremesh.privacy.pairs import Keystream
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Wire

Words: TypeAlias = NDArray[Any]
"""Unsigned words of one grid, (length,)."""

_CHECK_BYTES: Final = 8  # of a part: a sum with other masks has it once in 2⁶⁴
_MASK_BYTES: Final = 1 << 18  # of masks at once, which stay in a cache
_BLOCK: Final = 1 << 17  # entries that are put on the grid at once: they, scaled, and as words
_COARSE: Final = 4  # a magnitude is told as a multiple of so many binary digits, which hides the others
_FULL: Final = 1 - 2.0**-10  # of a grid; the rest is for rounding


class AggregationError(FlaremeshError):
    """What would have to be hidden in a sum cannot be; the message names the site."""


class Grid(NamedTuple):
    """The integers that stand for the entries of vectors of one dtype.

    Attributes:
        word: modulo its range they are added up.
        signed: the same bits, as they are read.
        working: the floating-point type in which entries are scaled.
        least, greatest: binary magnitudes e of vectors with entries below 2^e; a smaller one counts as least.
    """

    word: type[np.unsignedinteger[Any]]
    signed: torch.dtype
    working: torch.dtype
    least: int
    greatest: int

    @property
    def bytes(self) -> int:
        """Of a word."""
        return self.signed.itemsize

    @property
    def bits(self) -> int:
        """Of a word."""
        return 8 * self.bytes

    @property
    def check(self) -> int:
        """Words of a check."""
        return _CHECK_BYTES // self.bytes

    def magnitude(self, vector: Tensor) -> int:
        """The least multiple e of four such that all entries of a vector are below 2^e; waits for a GPU.

        Raises:
            ValueError: an entry is not finite, or out of range.
        """
        low, high = (float(extreme) for extreme in torch.aminmax(vector)) if vector.numel() else (0.0, 0.0)
        greatest = max(-low, high)
        if not math.isfinite(greatest):
            raise ValueError("an entry that is not finite")
        exponent = math.frexp(greatest)[1] if greatest else self.least
        if exponent > self.greatest:
            raise ValueError(f"an entry beyond the range of {_name(self.working)}")
        return max(self.least, _COARSE * -(-exponent // _COARSE))

    def step(self, magnitudes: Sequence[tuple[float, int]]) -> int:
        """The least s such that a sum of vectors on the grid of step 2^s does not wrap around.

        Args:
            magnitudes: of each summand, its weight and the magnitude of its vector.
        """
        top = max(magnitude for _, magnitude in magnitudes)
        # exactly rounded, so that whoever computes it gets the same
        total = math.fsum(weight * 2.0 ** (magnitude - top) for weight, magnitude in magnitudes)
        return top + math.frexp(total / _FULL)[1] - (self.bits - 1)

    def holds(self, weight: float, magnitude: int, step: int) -> bool:
        """Whether a vector times its weight is on the grid of that step."""
        digits = magnitude - step
        return digits < 2 * self.bits and weight * 2.0**digits < 2.0 ** (self.bits - 1) * _FULL


_NARROW: Final = Grid(np.uint32, torch.int32, torch.float32, -64, 128)
_WIDE: Final = Grid(np.uint64, torch.int64, torch.float64, -896, 1024)


def grid_of(wire: Wire, dtype: torch.dtype) -> Grid:
    """The grid of vectors: as wide as a vector's entries, and four bytes at least."""
    return _WIDE if dtype.itemsize > 4 and wire.encoding == "exact" else _NARROW


def aggregate_bytes(wire: Wire, vectors: Sequence[Tensor], *, announced: bool = False) -> int:
    """Length in bytes of all parts of a message with these vectors, flat and of one dtype.

    Args:
        wire: by which it travels.
        vectors: of the message.
        announced: count the two short messages before it, too.
    """
    entries = sum(vector.numel() for vector in vectors)
    length = entries * grid_of(wire, vectors[0].dtype).bytes + len(spans(vectors)) * _CHECK_BYTES
    return length + announced * sum(form.size for form in _short_messages(len(vectors)))


class Aggregation:
    """Mixes one exchange in every iteration of a run at one site, which sees sums alone.

    Once an iteration: ``magnitudes``, which go to all neighbours; ``steps`` from what came of them, which go
    to them, too, unless they know; ``heed`` what those answer that are ``awaited``; ``publish``; ``mix``.

    Args:
        wire: exact, or float32, which puts vectors of float64 on the grid of narrower ones.
        averaged: so many of the first vectors are mixed to the mean of the neighbourhood.
        hood: the site's neighbourhood, with its partners; w_ij = w_ji.
        secrets: what the site shares with each of its partners, and with nobody else, in this run.
        stage: number of the exchange, which is part of a mask's name.

    Raises:
        AggregationError: for a neighbour the site has nobody to share masks with.
    """

    def __init__(
        self, wire: Wire, averaged: int, hood: Neighborhood, secrets: Mapping[str, bytes], stage: int
    ):
        alone = [peer for peer in hood.out if not hood.partners.get(peer)]
        if alone:
            raise AggregationError(
                f"nothing would hide what {hood.site} sends to {' and '.join(alone)}: no other neighbour of "
                f"theirs is a neighbour of {hood.site}; remove secure_aggregation, or add edges"
            )
        unknown = {partner for partners in hood.partners.values() for partner in partners} - secrets.keys()
        if unknown:
            raise AggregationError(f"{hood.site} shares no secret with {' and '.join(sorted(unknown))}")
        self._wire, self._averaged, self._hood, self._stage = wire, averaged, hood, stage
        self._secrets = secrets
        self._own: Sequence[Tensor] = ()
        self._magnitudes: tuple[int, ...] = ()
        self._steps: tuple[int, ...] = ()
        self._factors: dict[str, tuple[float, ...]] = {}
        self._asked_by: dict[str, str] = {}
        # weights count in units of the greatest: where all are equal, none of them is rounded
        self._unit = max(hood.in_weights.values())
        self._said: dict[str, tuple[int, ...]] = {}
        # where all neighbours of a site are neighbours of each other, they hear of each other what it hears
        self._is_clique = all(
            {*hood.in_weights} <= {peer, *hood.partners.get(peer, ())} for peer in hood.in_weights
        )
        self._has_told = False
        self._cliques: dict[str, float] = {}  # of each such out-neighbour, the unit of its weights

    def magnitudes(self, vectors: Sequence[Tensor]) -> bytes:
        """What the neighbours are told of the vectors that are to be published: their magnitudes.

        Raises:
            AggregationError: an entry is not finite.
        """
        if not self._own:
            self._open(vectors)
        self._own = vectors
        try:
            with self._threads:
                self._magnitudes = tuple(map(self._grid.magnitude, vectors))
        except ValueError as error:
            raise AggregationError(
                f"{self._hood.site} has {error}: secure aggregation cannot send it"
            ) from None
        return self._numbers.pack(*self._magnitudes)

    def steps(self, magnitudes: Mapping[str, Payload]) -> bytes | None:
        """The grids on which the in-neighbours are to send, from what they said.

        Returns:
            What they are to be told; None if they know, as all of them have heard the same.

        Raises:
            LinkError: it is nothing that a site says.
        """
        said = {peer: self._read(self._numbers, peer, payload) for peer, payload in magnitudes.items()}
        for peer, numbers in said.items():
            if not all(self._grid.least <= number <= self._grid.greatest for number in numbers):
                raise LinkError(f"{peer} sent magnitudes {list(numbers)}, which no vector has")
        self._said = said
        self._steps = self._steps_for(self._hood.in_weights)
        if self._has_told:
            return None
        self._has_told = self._is_clique
        return self._asked.pack(self._unit, self._is_clique, *self._steps)

    @property
    def awaited(self) -> list[str]:
        """The out-neighbours that will answer."""
        return [peer for peer in self._hood.out if peer not in self._cliques]

    def heed(self, steps: Mapping[str, Payload]) -> None:
        """Take in what the out-neighbours answer.

        Raises:
            LinkError: this site's vectors are not on such a grid.
        """
        grids = {
            peer: (unit, self._steps_for([self._hood.site, *self._hood.partners[peer]]))
            for peer, unit in self._cliques.items()
        }
        for peer, payload in steps.items():
            unit, is_clique, *asked = self._read(self._asked, peer, payload)
            grids[peer] = unit, tuple(asked)
            if is_clique:
                self._cliques[peer] = unit
        self._factors = {peer: self._held(peer, unit, asked) for peer, (unit, asked) in grids.items()}
        self._asked_by = {peer: f"{unit.hex()} {asked}" for peer, (unit, asked) in grids.items()}

    def publish(self, iteration: int) -> Iterator[tuple[int, str, Payload]]:
        """Part by part, what each out-neighbour is sent, which is made when it is asked for."""
        for number, span in enumerate(self._parts):
            on_grid: dict[tuple[float, ...], Words] = {}
            for peer in self._hood.out:
                factors = self._factors[peer]
                if factors not in on_grid:
                    with self._threads:
                        on_grid[factors] = self._on_grid(span, factors)
                yield number, peer, self._masked(on_grid[factors], peer, iteration, number)

    def mix(self, received: Iterable[Mapping[str, Payload]]) -> Mixture:
        """Mix what was published last with the sums of what the in-neighbours sent.

        Args:
            received: each part, by in-neighbour.

        Raises:
            LinkError: a part does not fit, or the masks of the neighbours do not cancel.
        """
        mixed: list[Tensor] = []
        norms: list[Tensor | float] = []
        for span, payloads in zip(self._parts, received, strict=True):
            total = self._sum(span, payloads)
            if not mixed:  # not before the neighbours have sent, and so let go of the memory of the last ones
                mixed = [self._staging.take(vector.numel(), vector.dtype) for vector in self._own]
            for number, (vector, start, (first, last)) in enumerate(self._pieces(span)):
                words = total[start : start + last - first]
                given, taken = self._terms(number)
                terms = [
                    Term(-given, entries_of(section(vector, first, last))),
                    Term(taken, self._off_grid(words, number)),
                ]
                own, result = section(vector, first, last), section(mixed[number], first, last)
                with self._threads:
                    found = mix(own, terms, 1.0, self._works[number], result)
                if number == 0:
                    norms += found
        return Mixture(tuple(mixed), self._terms(0)[0] * joined(norms))

    def _open(self, vectors: Sequence[Tensor]) -> None:
        self._grid = grid_of(self._wire, vectors[0].dtype)
        self._staging, self._host = staging_for(vectors[0].device), HostStaging()
        self._parts, self._threads = spans(vectors), threads_for(vectors)
        self._works = [Workspace(vector, self._staging.take) for vector in vectors]
        self._mask = np.empty(_MASK_BYTES // self._grid.bytes, self._grid.word)
        longest = max(vectors, key=Tensor.numel)
        scaled = longest.new_empty(1, dtype=self._grid.working).expand(longest.numel())
        self._scaling = Workspace(scaled, self._staging.take)
        self._numbers, self._asked = _short_messages(len(vectors))

    def _steps_for(self, senders: Iterable[str]) -> tuple[int, ...]:
        """Of each vector, the step of a grid that holds the sum of what these send: each times 1 at most."""
        said = [self._magnitudes if peer == self._hood.site else self._said[peer] for peer in senders]
        return tuple(
            self._grid.step([(1.0, magnitude) for magnitude in each]) for each in zip(*said, strict=True)
        )

    def _held(self, peer: str, unit: float, steps: Sequence[int]) -> tuple[float, ...]:
        """What each own vector is multiplied by, so that it is on the grid that ``peer`` asks for."""
        shares = [
            1.0 if number < self._averaged else self._hood.in_weights[peer] / unit if unit > 0 else math.nan
            for number in range(len(steps))
        ]
        for share, magnitude, step in zip(shares, self._magnitudes, steps, strict=True):
            if not self._grid.holds(share, magnitude, step):
                raise LinkError(
                    f"{peer} asks {self._hood.site} for values in steps of 2^{step}, in which words of "
                    f"{self._grid.bits} bits do not hold them"
                )
        return tuple(share * 2.0**-step for share, step in zip(shares, steps, strict=True))

    def _terms(self, vector: int) -> tuple[float, float]:
        """The weights with which the site gives its own away, and takes the sum."""
        if vector < self._averaged:
            share = self._hood.averaging.self_weight
            return 1 - share, share
        return 1 - self._hood.self_weight, self._unit

    def _pieces(self, span: Span) -> Iterator[tuple[Tensor, int, Span]]:
        """Of each vector: the vector, where its words begin in the part, and its entries there."""
        start = 0
        for vector in self._own:
            entries = within(span, vector.numel())
            yield vector, start, entries
            start += entries[1] - entries[0]

    def _length(self, span: Span) -> int:
        """Words of a part."""
        return sum(last - first for _, _, (first, last) in self._pieces(span)) + self._grid.check

    def _on_grid(self, span: Span, factors: Sequence[float]) -> Words:
        """A part, each vector times its factor, rounded; behind it a check of zeros."""
        grid, work = self._grid, self._scaling
        words = self._staging.take(self._length(span), grid.signed)
        words[-grid.check :].zero_()
        for (vector, at, (first, last)), factor in zip(self._pieces(span), factors, strict=True):
            size = last - first if vector.is_cuda else _BLOCK
            for start in range(0, last - first, size):
                stop = min(start + size, last - first)
                scratch = section(work.scratch[0], 0, stop - start)
                entries = section(vector, first + start, first + stop)
                if entries.dtype is grid.working:
                    torch.mul(entries, factor, out=scratch)
                else:
                    scratch.copy_(entries).mul_(factor)
                words[at + start : at + stop].copy_(scratch.round_())
        (payload,) = self._staging.download([words.view(torch.uint8)])
        return np.frombuffer(payload, grid.word)

    def _masked(self, on_grid: Words, peer: str, iteration: int, part: int) -> Payload:
        """Words plus all masks that hide them from ``peer``."""
        site = self._hood.site
        # who asks one site for a grid so coarse that its vector vanishes, and another one not, gets no sum
        label = f"sum {iteration} {self._stage} {part} {self._asked_by[peer]} {peer}"
        streams = [
            (np.add if site < partner else np.subtract, Keystream(self._secrets[partner], label))
            for partner in self._hood.partners[peer]
        ]
        words = self._words(on_grid.size)
        for start in range(0, on_grid.size, self._mask.size):
            hidden, plain = words[start : start + self._mask.size], on_grid[start : start + self._mask.size]
            mask = self._mask[: hidden.size]
            for add, stream in streams:
                stream.fill(mask.data.cast("B"))
                plain = add(plain, mask, out=hidden)
        return words.view(np.uint8).data

    def _sum(self, span: Span, payloads: Mapping[str, Payload]) -> Tensor:
        """The sum of what all in-neighbours sent of a part, as signed words, where the vectors are."""
        length, grid = self._length(span), self._grid
        if missing := self._hood.in_weights.keys() - payloads.keys():
            raise LinkError(f"without what {' and '.join(sorted(missing))} sends there is no sum")
        for peer, payload in payloads.items():
            require_length(payload, length * grid.bytes, peer)
        first, *others = (np.frombuffer(payloads[peer], grid.word) for peer in self._hood.in_weights)
        total = self._words(length)
        summed = first
        for words in others:
            np.add(summed, words, out=total)
            summed = total
        if summed[-grid.check :].any():
            raise LinkError(
                f"what {', '.join(payloads)} sent {self._hood.site} makes no sum, as their masks do not "
                "cancel: one of them has other masks or grids, is broken, or means harm"
            )
        return self._staging.upload(bytes_of(summed.view(np.uint8).data)).view(grid.signed)

    def _words(self, length: int) -> Words:
        """Memory for words on the host."""
        words: Words = self._host.take(length, self._grid.signed).numpy().view(self._grid.word)
        return words

    def _off_grid(self, words: Tensor, vector: int) -> Blocks:
        """The entries that words stand for."""
        step, working = 2.0 ** self._steps[vector], self._grid.working

        def blocks(start: int, stop: int, scratch: Tensor) -> Tensor:
            block = section(scratch, 0, stop - start)
            if block.dtype.itemsize < working.itemsize:  # words are beyond its range
                return block.copy_(words[start:stop].to(working).mul_(step))
            return block.copy_(words[start:stop]).mul_(step)

        return blocks

    def _read(self, form: struct.Struct, peer: str, payload: Payload) -> tuple[Any, ...]:
        require_length(payload, form.size, peer)
        return form.unpack(payload)


def _short_messages(vectors: int) -> tuple[struct.Struct, struct.Struct]:
    """Magnitudes; and the greatest weight with the steps that are asked for."""
    return struct.Struct(f"<{vectors}h"), struct.Struct(f"<d?{vectors}h")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
