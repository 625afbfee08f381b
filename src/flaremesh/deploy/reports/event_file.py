"""TensorBoard's event files, written without TensorBoard.

A file is a sequence of records with lengths and checksums (TFRecord). Each is a message ``Event`` in the wire
format of protocol buffers, of which a scalar needs few: see TensorFlow's event.proto and summary.proto.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C (Castagnoli), reflected


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ _POLYNOMIAL * (byte & 1)
    return byte


_REMAINDERS: Final = tuple(map(_remainder, range(256)))


class Scalar(NamedTuple):
    """One value.

    Attributes:
        tag: its name.
        step: the iteration.
        value: the value, which is kept as float32.
        time: Unix time, seconds.
    """

    tag: str
    step: int
    value: float
    time: float


def write_events(path: Path, scalars: Iterable[Scalar]) -> None:
    """Write a file, whose name must contain ``tfevents``; raises OSError."""
    with path.open("wb") as file:
        for event in _events(scalars):
            length = struct.pack("<Q", len(event))
            file.write(length + _checksum(length) + event + _checksum(event))


def crc32c(data: bytes) -> int:
    """CRC-32C of some bytes (RFC 3720, B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _REMAINDERS[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _events(scalars: Iterable[Scalar]) -> Iterator[bytes]:
    yield _double(1, 0.0) + _text(3, b"brain.Event:2")
    for tag, step, value, time in scalars:
        summary = _text(1, _text(1, tag.encode(errors="backslashreplace")) + _float(2, value))
        yield _double(1, time) + _number(2, step) + _text(5, summary)


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    masked = (crc >> 15 | crc << 17) + 0xA282EAD8
    return struct.pack("<I", masked & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:  # no float32 is so great
        packed = struct.pack("<f", float("inf") if value > 0 else -float("inf"))
    return _varint(field << 3 | 5) + packed


def _text(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
