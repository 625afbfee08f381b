"""Values of `_exchange_values` as bytes: numbers, strings, arrays and tensors, in lists, tuples and dicts.

Nothing that arrives is executed: msgpack carries the structure, in which an array is a dtype, a shape and a
place; the arrays' bytes follow it, so that they are copied once when sent and not at all when received.
"""

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import torch
from numpy.typing import NDArray

_NDARRAY, _TENSOR, _TUPLE = 1, 2, 3
_MAX_ELEMENTS = 1 << 16  # of one list or dict: a message has few, long arrays
_MAX_TUPLES = 16  # in one another: each is unpacked by a call within the call for the outer one

_STRUCTURE_BYTES = struct.Struct("<Q")
_ALIGNMENT = 16  # of every array in the message

_NUMPY_DTYPES = {
    dtype.str: dtype
    for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"
    for dtype in (np.dtype(code), np.dtype(code).newbyteorder())
}
_TORCH_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


def encode(value: Any) -> bytes:
    """Copy ``value`` into one buffer; raises TypeError for what is none of the types above."""
    encoder = _Encoder()
    structure = encoder.pack(value)
    padding = -(_STRUCTURE_BYTES.size + len(structure)) % _ALIGNMENT
    return b"".join((_STRUCTURE_BYTES.pack(len(structure)), structure, bytes(padding), *encoder.pieces))


def decode(data: bytes | memoryview) -> Any:
    """The value again; raises ValueError for anything malformed.

    Arrays and tensors are views of ``data`` where it is writable, and else of a copy.
    """
    buffer = memoryview(data)
    if buffer.readonly:
        buffer = memoryview(bytearray(buffer))
    try:
        (length,) = _STRUCTURE_BYTES.unpack_from(buffer)
        end = _STRUCTURE_BYTES.size + length
        if end > len(buffer):
            raise ValueError("the structure is longer than the message")
        return _Decoder(buffer[end + -end % _ALIGNMENT :]).unpack(buffer[_STRUCTURE_BYTES.size : end])
    except (msgpack.exceptions.UnpackException, struct.error, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"malformed message: {error}") from error


class _Encoder:
    """Packs structures and gathers the bytes of their arrays.

    Attributes:
        pieces: to be sent behind the structure, paddings included; they alias the arrays.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        self._length = 0

    def pack(self, value: Any) -> bytes:
        packed: bytes = msgpack.packb(value, default=self._extension, strict_types=True)
        return packed

    def _extension(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype in _TORCH_DTYPES.values():
            flat = value.detach().cpu().reshape(-1).view(torch.uint8).numpy()
            return msgpack.ExtType(
                _TENSOR, self._place(str(value.dtype).removeprefix("torch."), value.shape, flat)
            )
        if isinstance(value, np.ndarray) and value.dtype.str in _NUMPY_DTYPES:
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            return msgpack.ExtType(_NDARRAY, self._place(value.dtype.str, value.shape, flat))
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, tuple):
            return msgpack.ExtType(_TUPLE, self.pack(list(value)))
        if isinstance(value, dict):  # of a class of its own, such as a state_dict
            return dict(value)
        dtype = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
        raise TypeError(f"cannot send a {type(value).__name__}{dtype}; convert it in _to_message")

    def _place(self, dtype: str, shape: Sequence[int], flat: NDArray[np.uint8]) -> bytes:
        padding = -self._length % _ALIGNMENT
        start = self._length + padding
        self._length = start + len(flat)
        self.pieces += [bytes(padding), flat.data]
        return self.pack([dtype, list(shape), start, len(flat)])


class _Decoder:
    """Unpacks structures whose arrays lie in ``arrays``."""

    def __init__(self, arrays: memoryview):
        self._arrays = np.frombuffer(arrays, dtype=np.uint8)
        self._depth = 0

    def unpack(self, data: bytes | memoryview) -> Any:
        return msgpack.unpackb(
            data,
            ext_hook=self._value,
            strict_map_key=False,
            max_array_len=_MAX_ELEMENTS,
            max_map_len=_MAX_ELEMENTS,
        )

    def _value(self, code: int, data: bytes) -> Any:
        if code == _TUPLE:
            return tuple(self._nested(data))
        dtype, shape, start, length = msgpack.unpackb(data)
        if not 0 <= start <= start + length <= len(self._arrays):
            raise ValueError("an array lies outside the message")
        flat = self._arrays[start : start + length]
        try:
            if code == _NDARRAY:
                return flat.view(_NUMPY_DTYPES[dtype]).reshape(shape)
            if code == _TENSOR:
                return torch.from_numpy(flat).view(_TORCH_DTYPES[dtype]).reshape(shape)
        except KeyError:
            raise ValueError(f"no dtype {dtype}") from None
        raise ValueError(f"unknown extension {code}")

    def _nested(self, data: bytes) -> Any:
        if self._depth >= _MAX_TUPLES:
            raise ValueError(f"more than {_MAX_TUPLES} tuples in one another")
        self._depth += 1
        try:
            return self.unpack(data)
        finally:
            self._depth -= 1
