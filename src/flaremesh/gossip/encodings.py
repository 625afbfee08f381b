"""How a vector is written on the wire.

An encoding works block by block, on whatever device the vector is. Numbers are in the machine's byte order,
which is little-endian at all sites.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from flaremesh.gossip.mixing import BLOCK, Blocks, Span, Take, Workspace, entries_of, section, within
from flaremesh.topology.schema import Wire

SCALED = 1024
"""Entries that share a scale, which adds 0.4 % to what int8 sends."""
RANKED = 1 << 16
"""Entries of which top-k sends the greatest: a place among them takes two bytes."""

PART = 4 * BLOCK
"""Entries of a part, at least: smaller ones pay for more messages, larger ones leave the cache."""
_MOST_PARTS = 64  # of a message: links keep 256 for a site that is behind
_ALIGNMENT = 8  # bytes; each vector of a part starts at a multiple of it
_CASTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Encoding(Protocol):
    """Writes and reads vectors of one dtype."""

    @property
    def contractive(self) -> bool:
        """Whether it drops so much that the rest must be sent later, by PublicCopies.

        All that is required of such an encoding C is ‖C(x) − x‖² ≤ (1 − ω)‖x‖² for some ω > 0.
        """

    def size(self, length: int) -> int:
        """Bytes of an encoded vector (length,)."""

    def encode(self, blocks: Blocks, length: int, work: Workspace) -> Tensor:
        """The bytes (size,) uint8 of the vector (length,) with these blocks."""

    def check(self, data: Tensor, length: int) -> None:
        """Check that bytes (size,) on the CPU hold a vector (length,).

        Raises:
            ValueError: they hold something else; the message says what.
        """

    def decode(self, data: Tensor, length: int) -> Blocks:
        """The vector (length,) of checked bytes (size,)."""


@dataclass(frozen=True)
class Exact(Encoding):
    """The vector's own memory.

    Attributes:
        dtype: of the vector.
    """

    contractive: ClassVar[bool] = False
    dtype: torch.dtype

    @override
    def size(self, length: int) -> int:
        return length * self.dtype.itemsize

    @override
    def encode(self, blocks: Blocks, length: int, work: Workspace) -> Tensor:
        """The bytes of the vector, which are not copied: its blocks must be views of it."""
        return blocks(0, length, work.scratch[0]).view(torch.uint8)

    @override
    def check(self, data: Tensor, length: int) -> None:
        """Any bytes are a vector."""

    @override
    def decode(self, data: Tensor, length: int) -> Blocks:
        if data.storage_offset() % self.dtype.itemsize:  # not aligned: narrower entries precede it
            data = data.clone()
        return entries_of(data.view(self.dtype))


@dataclass(frozen=True)
class Cast(Encoding):
    """Every entry rounded to a narrower floating-point type.

    Attributes:
        narrow: that type.
    """

    contractive: ClassVar[bool] = False
    narrow: torch.dtype

    @override
    def size(self, length: int) -> int:
        return _aligned(length * self.narrow.itemsize)

    @override
    def encode(self, blocks: Blocks, length: int, work: Workspace) -> Tensor:
        data = _blank(work.take, self.size(length))
        (narrow,) = _views(data, (self.narrow, length))
        for start, stop in work.spans(length):
            narrow[start:stop].copy_(blocks(start, stop, work.scratch[0]))
        return data

    @override
    def check(self, data: Tensor, length: int) -> None:
        """Any bytes are a vector."""

    @override
    def decode(self, data: Tensor, length: int) -> Blocks:
        (narrow,) = _views(data, (self.narrow, length))
        return lambda start, stop, scratch: section(scratch, 0, stop - start).copy_(narrow[start:stop])


@dataclass(frozen=True)
class Scaled(Encoding):
    """Every entry rounded to a narrow type, in units of a scale that SCALED entries share.

    The greatest of them fills the range of the narrow type, so that nothing overflows.

    Attributes:
        narrow: that type, an integer or a floating-point one.
        greatest: its greatest number.
        scale: the scales' floating-point type.
    """

    narrow: torch.dtype
    greatest: float
    scale: torch.dtype

    @property
    @override
    def contractive(self) -> bool:
        """True for integers, whose rounding error is too great to be ignored."""
        return not self.narrow.is_floating_point

    @override
    def size(self, length: int) -> int:
        return _aligned(-(-length // SCALED) * self.scale.itemsize + length * self.narrow.itemsize)

    @override
    def encode(self, blocks: Blocks, length: int, work: Workspace) -> Tensor:
        data = _blank(work.take, self.size(length))
        scales, narrow = self._columns(data, length)
        least = torch.finfo(self.scale).tiny  # of a scale; entries far below it become zero
        for start, stop in work.spans(length):
            block = blocks(start, stop, work.scratch[0])
            units = section(work.scratch[1], 0, stop - start)
            for table in _tables(start, stop, SCALED):
                values, scaled, scale = table.of(block), table.of(units), scales[table.rows]
                scale.copy_(torch.abs(values, out=scaled).amax(dim=1, keepdim=True))
                scale.div_(self.greatest).clamp_(min=least)
                torch.div(values, scale, out=scaled)
            if not self.narrow.is_floating_point:
                units.round_()
            narrow[start:stop].copy_(units)
        return data

    @override
    def check(self, data: Tensor, length: int) -> None:
        scales, _ = self._columns(data, length)
        if not scales.isfinite().all():
            raise ValueError("a scale that is not finite")

    @override
    def decode(self, data: Tensor, length: int) -> Blocks:
        """Entry times scale: a single multiplication, so that all sites get the very same numbers."""
        scales, narrow = self._columns(data, length)

        def blocks(start: int, stop: int, scratch: Tensor) -> Tensor:
            block = section(scratch, 0, stop - start).copy_(narrow[start:stop])
            for table in _tables(start, stop, SCALED):
                table.of(block).mul_(scales[table.rows])
            return block

        return blocks

    def _columns(self, data: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The scales (rows, 1) and the narrow entries (length,)."""
        rows = -(-length // SCALED)
        scales, narrow = _views(data, (self.scale, rows), (self.narrow, length))
        return scales.view(rows, 1), narrow


@dataclass(frozen=True)
class TopK(Encoding):
    """The entries of greatest magnitude, of RANKED entries each the same fraction; the others are zero.

    Attributes:
        dtype: of the vector.
        fraction: 0 < fraction <= 1.
    """

    contractive: ClassVar[bool] = True
    dtype: torch.dtype
    fraction: float

    @override
    def size(self, length: int) -> int:
        return _aligned(self._sent(length) * (self.dtype.itemsize + torch.int16.itemsize))

    @override
    def encode(self, blocks: Blocks, length: int, work: Workspace) -> Tensor:
        data = _blank(work.take, self.size(length))
        sent, places = self._columns(data, length)
        for start, stop in work.spans(length):
            block = blocks(start, stop, work.scratch[0])
            for table in _tables(start, stop, RANKED):
                values = table.of(block)
                magnitudes = torch.abs(values, out=table.of(section(work.scratch[1], 0, stop - start)))
                chosen = magnitudes.topk(self._kept(table.width), dim=1, sorted=False).indices
                at = self._at(table)
                sent[at].copy_(values.gather(1, chosen).flatten())
                places[at].copy_(chosen.flatten())  # beyond 32767 they wrap around: see _unwrapped
        return data

    @override
    def check(self, data: Tensor, length: int) -> None:
        sent, places = self._columns(data, length)
        if not sent.isfinite().all():
            raise ValueError("an entry that is not finite")
        tail = length % RANKED
        if tail and int(_unwrapped(places[-self._kept(tail) :]).max()) >= tail:
            raise ValueError("an entry beyond the end of the vector")

    @override
    def decode(self, data: Tensor, length: int) -> Blocks:
        sent, places = self._columns(data, length)

        def blocks(start: int, stop: int, scratch: Tensor) -> Tensor:
            block = section(scratch, 0, stop - start).zero_()
            for table in _tables(start, stop, RANKED):
                at, shape = self._at(table), (-1, self._kept(table.width))
                table.of(block).scatter_(1, _unwrapped(places[at]).view(shape), sent[at].view(shape))
            return block

        return blocks

    def _kept(self, width: int) -> int:
        return math.ceil(self.fraction * width)

    def _sent(self, length: int) -> int:
        whole, tail = divmod(length, RANKED)
        return whole * self._kept(RANKED) + self._kept(tail)

    def _at(self, table: "_Table") -> slice:
        """Where the entries of a table's rows are."""
        first = table.rows.start * self._kept(RANKED)
        return slice(first, first + (table.rows.stop - table.rows.start) * self._kept(table.width))

    def _columns(self, data: Tensor, length: int) -> list[Tensor]:
        """The entries and their places, each (sent,)."""
        sent = self._sent(length)
        return _views(data, (self.dtype, sent), (torch.int16, sent))


def encoding_of(wire: Wire, dtype: torch.dtype) -> Encoding:
    """The encoding of vectors of ``dtype`` for the run option ``wire``; it is never wider than ``dtype``."""
    match wire.encoding:
        case "float32" | "bfloat16" if _CASTS[wire.encoding].itemsize < dtype.itemsize:
            return Cast(_CASTS[wire.encoding])
        case "float16" if torch.float16.itemsize < dtype.itemsize:
            return Scaled(torch.float16, torch.finfo(torch.float16).max, scale=dtype)
        case "int8":
            return Scaled(
                torch.int8, torch.iinfo(torch.int8).max, scale=torch.promote_types(dtype, torch.float32)
            )
        case "top-k":
            return TopK(dtype, wire.kept)
    return Exact(dtype)


def encodings(wire: Wire, vectors: Sequence[Tensor], exact_last: bool) -> list[Encoding]:
    """The encoding of each vector of a message; with ``exact_last`` the last one travels as it is."""
    wires = [wire] * len(vectors)
    if exact_last:
        wires[-1] = Wire()
    return [encoding_of(wire, vector.dtype) for wire, vector in zip(wires, vectors, strict=True)]


def spans(vectors: Sequence[Tensor]) -> list[Span]:
    """The parts of a message with these vectors: of each of them, the entries that a part holds.

    A part is worked on while the next one travels. Parts begin where scales and ranks do, so that the numbers
    are those of a vector that is not divided.
    """
    longest = max(vector.numel() for vector in vectors)
    size = PART * math.ceil(longest / (PART * _MOST_PARTS))
    return [(start, start + size) for start in range(0, longest, size)]


def message_bytes(wire: Wire, vectors: Sequence[Tensor], exact_last: bool = False) -> int:
    """Length in bytes of all parts of a message with these vectors."""
    chosen = encodings(wire, vectors, exact_last)
    return sum(
        encoding.size(stop - start)
        for span in spans(vectors)
        for encoding, vector in zip(chosen, vectors, strict=True)
        for start, stop in [within(span, vector.numel())]
    )


class _Table(NamedTuple):
    """Some rows of a vector whose entries are laid out in rows of one width; the last row may be shorter."""

    rows: slice
    entries: slice  # counted from the start of the block
    width: int

    def of(self, block: Tensor) -> Tensor:
        """(rows, width)."""
        return block[self.entries].view(-1, self.width)


def _tables(start: int, stop: int, width: int) -> Iterator[_Table]:
    """The rows of the block ``start`` to ``stop``, where ``start`` is a multiple of ``width``."""
    length = stop - start
    row, whole = start // width, length // width
    if whole:
        yield _Table(slice(row, row + whole), slice(0, whole * width), width)
    if tail := length - whole * width:
        yield _Table(slice(row + whole, row + whole + 1), slice(whole * width, length), tail)


def _unwrapped(places: Tensor) -> Tensor:
    """Indices from their lowest 16 bits."""
    return places.long().bitwise_and_(0xFFFF)


def _views(data: Tensor, *columns: tuple[torch.dtype, int]) -> list[Tensor]:
    """The columns (dtype, length) that lie one after another in bytes."""
    views, offset = [], 0
    for dtype, length in columns:
        end = offset + length * dtype.itemsize
        views.append(data[offset:end].view(dtype))
        offset = end
    return views


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _blank(take: Take, size: int) -> Tensor:
    """Memory for an encoded vector, whose padding is zeroed so that no old content is sent."""
    data = take(size, torch.uint8)
    data[-_ALIGNMENT:].zero_()
    return data
