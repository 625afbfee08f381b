"""Values of `_exchange_values` as bytes: numbers, texts, arrays and tensors, and collections of them.

A message is the length of its structure, the structure, and the bytes of its arrays, which are copied once
when sent and not at all when received. The structure is a flat sequence of msgpack's numbers, texts and
bytes. In it a mark, a kind and a count, says what the following values form: a list of so many items, an
array of so many dimensions. Nothing that arrives is executed. Every value costs bytes of the message, so that
a decoded message takes a bounded multiple of its length in memory, whatever a hostile peer writes.
"""

import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Any, Final, NoReturn

import msgpack
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LIST, _TUPLE, _SET, _FROZENSET, _DICT, _ORDERED_DICT = range(6)
_NDARRAY, _TENSOR, _NUMPY_NUMBER, _COMPLEX, _BIG_INT, _DATETIME = range(6, 12)
_FLAT = 64  # added to the kind of a sequence without marks inside: msgpack reads it without a loop here

_COUNT = struct.Struct("<Q")
_ALIGNMENT = 16  # bytes; every array starts at a multiple of it
_MAX_DEPTH = 100  # of lists, tuples, sets and dicts in one another
_MAX_EQUAL_HASHES = (
    64  # many keys of one hash make a dict slow; honest ones are at most 35, powers of two as floats
)

_LEAVES: Final = frozenset({type(None), bool, int, float, str, bytes})
_SEQUENCES: Final[dict[int, Callable[[Iterable[Any]], Collection[Any]]]] = {
    _LIST: list,
    _TUPLE: tuple,
    _SET: set,
    _FROZENSET: frozenset,
}
_SEQUENCE_KINDS: Final = {make: kind for kind, make in _SEQUENCES.items()}
_UNICODE_ERRORS = "surrogatepass"  # every str may be sent, also one that is no text

_NUMPY_DTYPES: Final = {
    dtype.str: dtype
    for code in (
        *(np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"),
        *(f"{kind}8[{unit}]" for kind in "mM" for unit in ("Y", "M", *"WDhms", "ms", "us", "ns")),
    )
    for dtype in (np.dtype(code), np.dtype(code).newbyteorder())
}
_TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex128", "complex64", "complex32"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)  # older versions of torch lack some
}
_TORCH_NAMES: Final = {dtype: name for name, dtype in _TORCH_DTYPES.items()}


def encode(value: Any) -> bytes:
    """Copy ``value`` into one buffer.

    Raises:
        TypeError: it holds what cannot be sent: another type, dtype or layout than those above, a key or
            member of a set that does not equal itself or hashes otherwise elsewhere, or too deep a nesting.
    """
    encoder = _Encoder()
    encoder.put(value)
    structure = b"".join(encoder.structure)
    padding = -(_COUNT.size + len(structure)) % _ALIGNMENT
    return b"".join((_COUNT.pack(len(structure)), structure, bytes(padding), *encoder.arrays))


def decode(data: bytes | memoryview) -> Any:
    """The value again, with all its types.

    Arrays and tensors are views of ``data`` where it is writable, and else of a copy.

    Raises:
        ValueError: the message is malformed.
    """
    buffer = memoryview(data)
    if buffer.readonly:
        buffer = memoryview(bytearray(buffer))
    try:
        (length,) = _COUNT.unpack_from(buffer)
        end = _COUNT.size + length
        if end > len(buffer):
            raise ValueError("the structure is longer than the message")
        decoder = _Decoder(buffer[_COUNT.size : end], buffer[end + -end % _ALIGNMENT :])
        value = decoder.take()
        decoder.finish()
    except (
        *(msgpack.exceptions.UnpackException, struct.error),
        *(ValueError, TypeError, RuntimeError, OverflowError),  # numpy's and torch's
    ) as error:
        raise ValueError(f"malformed message: {str(error)[:200]}") from error  # it may quote what came
    return value


def _can_be_key(value: Any) -> bool:
    """Whether ``value`` equals itself and has the same hash at the receiver."""
    if type(value) in (tuple, frozenset):
        return all(map(_can_be_key, value))
    plain = type(value) in _LEAVES or isinstance(value, str | bytes | complex | datetime | np.generic)
    return plain and not isinstance(value, Enum) and bool(value == value)  # NaN does not


class _Encoder:
    """Packs values.

    Attributes:
        structure: packed pieces of the structure.
        arrays: what follows the structure: paddings, and views of the arrays' memory.
    """

    def __init__(self) -> None:
        self.structure: list[bytes] = []
        self.arrays: list[bytes | memoryview] = []
        self._length = 0
        self._depth = 0
        self._pack = msgpack.Packer(strict_types=True, unicode_errors=_UNICODE_ERRORS).pack

    def put(self, value: Any) -> None:
        kind = type(value)
        if kind in _LEAVES:
            if kind is int and not -(1 << 63) <= value < 1 << 64:
                self._mark(_BIG_INT, 0)
                value = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.structure.append(self._pack(value))
        elif kind in _SEQUENCE_KINDS or kind is torch.Size:
            self._sequence(_SEQUENCE_KINDS.get(kind, _TUPLE), value)
        elif isinstance(value, dict):  # a subclass of dict arrives as a dict
            self._dict(_ORDERED_DICT if kind is OrderedDict else _DICT, value)
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif kind in (np.ndarray, np.memmap) and value.dtype.str in _NUMPY_DTYPES:
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            self._array(_NDARRAY, value.dtype.str, value.shape, flat)
        elif isinstance(value, str) and not isinstance(value, Enum):  # a subclass of str, such as numpy's
            self.put(str.__str__(value))
        elif isinstance(value, bytes | bytearray | memoryview) and not isinstance(value, Enum):
            self.put(bytes(value))
        elif isinstance(value, np.generic) and value.dtype.str in _NUMPY_DTYPES:
            self._mark(_NUMPY_NUMBER, 0, value.dtype.str, value.tobytes())
        elif kind is complex:
            self._mark(_COMPLEX, 0, value.real, value.imag)
        elif kind is datetime:
            self._mark(_DATETIME, 0, value.isoformat())
        else:
            _refuse(value, f" of dtype {value.dtype}" if kind is np.ndarray or kind is np.void else "")

    def _mark(self, kind: int, count: int, *parts: Any) -> None:
        self.structure.append(self._pack(msgpack.ExtType(kind, _COUNT.pack(count))))
        self.structure += map(self._pack, parts)

    def _sequence(self, kind: int, items: Collection[Any]) -> None:
        if kind in (_SET, _FROZENSET) and not all(map(_can_be_key, items)):
            _refuse(items, " whose members are not all plain values")
        if _LEAVES.issuperset(map(type, items)):
            try:
                packed = self._pack(list(items))
            except OverflowError:
                pass  # an integer beyond 64 bits needs a mark
            else:
                self._mark(kind + _FLAT, len(items))
                header = 1 if len(items) < 1 << 4 else 3 if len(items) < 1 << 16 else 5
                self.structure.append(packed[header:])
                return
        self._mark(kind, len(items))
        self._deeper(items)

    def _dict(self, kind: int, value: dict[Any, Any]) -> None:
        for key in value:
            if not _can_be_key(key):
                _refuse(value, f" with the key {key!r}")
        self._mark(kind, len(value))
        self._deeper(part for item in value.items() for part in item)

    def _deeper(self, values: Iterable[Any]) -> None:
        if self._depth == _MAX_DEPTH:
            raise TypeError(
                f"cannot send more than {_MAX_DEPTH} lists, tuples, sets and dicts in one another; "
                "flatten them in _to_message"
            )
        self._depth += 1
        for value in values:
            self.put(value)
        self._depth -= 1

    def _tensor(self, value: Tensor) -> None:
        if value.dtype not in _TORCH_NAMES:
            _refuse(value, f" of dtype {value.dtype}")
        if value.layout is not torch.strided or value.is_nested or value.is_meta:
            kind = "nested" if value.is_nested else "on the meta device" if value.is_meta else value.layout
            _refuse(value, f" that is {kind}")
        whole = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        # not view(-1): a single element counts as contiguous whatever its stride, which the next view refuses
        flat = whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy()
        self._array(_TENSOR, _TORCH_NAMES[value.dtype], value.shape, flat)

    def _array(self, kind: int, dtype: str, shape: Sequence[int], flat: NDArray[np.uint8]) -> None:
        self._mark(kind, len(shape), dtype, *shape)
        padding = -self._length % _ALIGNMENT
        self._length += padding + len(flat)
        self.arrays += [bytes(padding), flat.data]


def _refuse(value: Any, detail: str) -> NoReturn:
    raise TypeError(f"cannot send a {type(value).__name__}{detail}; convert it in _to_message")


class _Decoder:
    """Reads ``structure``, whose arrays lie in ``arrays`` one after the other."""

    def __init__(self, structure: memoryview, arrays: memoryview):
        self._size = len(structure)
        self._unpacker = msgpack.Unpacker(
            ext_hook=lambda kind, data: (kind, *_COUNT.unpack(data)),
            unicode_errors=_UNICODE_ERRORS,
            max_buffer_size=max(1, len(structure)),
            max_array_len=0,
            max_map_len=0,
        )
        self._unpacker.feed(structure)
        self._arrays = np.frombuffer(arrays, dtype=np.uint8)
        self._position = 0
        self._depth = 0

    def take(self) -> Any:
        """The next value."""
        token = self._next()
        if type(token) in _LEAVES:
            return token
        if type(token) is not tuple:
            raise ValueError(f"no value of type {type(token).__name__} stands for itself")
        kind, count = token
        if kind - _FLAT in _SEQUENCES:
            items = list(islice(self._unpacker, count))
            if len(items) < count or not _LEAVES.issuperset(map(type, items)):
                raise ValueError("a sequence is not what it says")
            return _collected(kind - _FLAT, items)
        if kind in _SEQUENCES:
            return _collected(kind, self._deeper(count))
        if kind in (_DICT, _ORDERED_DICT):
            parts = self._deeper(2 * count)
            _require_distinct(parts[::2])
            pairs = zip(parts[::2], parts[1::2], strict=True)
            return OrderedDict(pairs) if kind == _ORDERED_DICT else dict(pairs)
        if kind in (_NDARRAY, _TENSOR):
            return self._array(kind, count)
        if kind == _NUMPY_NUMBER:
            dtype, content = _NUMPY_DTYPES.get(self._next()), self._next()
            if dtype is None or len(content) != dtype.itemsize:
                raise ValueError("a number is not what it says")
            return _sound(np.frombuffer(content, np.uint8), dtype.kind == "b").view(dtype)[0]
        if kind == _COMPLEX:
            return complex(self._next(), self._next())
        if kind == _BIG_INT:
            return int.from_bytes(self._next(), "little", signed=True)
        if kind == _DATETIME:
            return datetime.fromisoformat(self._next())
        raise ValueError(f"unknown kind {kind}")

    def finish(self) -> None:
        """Refuse a message that has more than its value."""
        if self._unpacker.tell() != self._size or self._position != len(self._arrays):
            raise ValueError("the message goes on behind its value")

    def _next(self) -> Any:
        for token in self._unpacker:
            return token
        raise ValueError("the structure ends too early")

    def _deeper(self, count: int) -> list[Any]:
        if self._depth == _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} levels")
        self._depth += 1
        values = [self.take() for _ in range(count)]
        self._depth -= 1
        return values

    def _array(self, kind: int, dimensions: int) -> NDArray[Any] | Tensor:
        name = self._next()
        shape = [self._next() for _ in range(dimensions)]
        if any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"no shape {shape}")
        dtype = (_NUMPY_DTYPES if kind == _NDARRAY else _TORCH_DTYPES).get(name)
        if dtype is None:
            raise ValueError(f"no dtype {name}")
        start = self._position + -self._position % _ALIGNMENT
        end = start + math.prod(shape) * dtype.itemsize
        if end > len(self._arrays):
            raise ValueError("an array is longer than the message")
        self._position = end
        flat = _sound(self._arrays[start:end], name in ("|b1", "bool"))
        if isinstance(dtype, torch.dtype):
            return torch.from_numpy(flat).view(dtype).reshape(shape)
        array: NDArray[Any] = flat.view(dtype).reshape(shape)
        return array


def _sound(content: NDArray[np.uint8], boolean: bool) -> NDArray[np.uint8]:
    """Refuse booleans that are neither true nor false."""
    if boolean and content.max(initial=0) > 1:
        raise ValueError("a boolean is neither true nor false")
    return content


def _collected(kind: int, items: list[Any]) -> Collection[Any]:
    if kind in (_SET, _FROZENSET):
        _require_distinct(items)
    return items if kind == _LIST else _SEQUENCES[kind](items)


def _require_distinct(keys: Collection[Any]) -> None:
    if not all(map(_can_be_key, keys)):
        raise ValueError("something is a key that cannot be one")
    hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
    if len(keys) > _MAX_EQUAL_HASHES and np.unique(hashes, return_counts=True)[1].max() > _MAX_EQUAL_HASHES:
        raise ValueError("the keys were chosen to make a dict slow")
    if len(set(keys)) < len(keys):
        raise ValueError("a key comes twice")
