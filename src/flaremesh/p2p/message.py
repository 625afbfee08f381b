"""Values of `_exchange_values` as bytes: numbers, strings, arrays and tensors, in lists, tuples and dicts.

Nothing that arrives is executed: msgpack carries the structure, arrays are raw bytes, a dtype and a shape.
"""

from typing import Any

import msgpack
import numpy as np
import torch

_NDARRAY, _TENSOR, _TUPLE = 1, 2, 3
_MAX_ELEMENTS = 1 << 16  # of one list or dict: a message has few, long arrays


def encode(value: Any) -> bytes:
    """Copy ``value`` into one buffer; raises TypeError for what is none of the types above."""
    packed: bytes = msgpack.packb(value, default=_extension, strict_types=True)
    return packed


def decode(data: bytes | memoryview) -> Any:
    """The value again, with arrays and tensors of its own; raises ValueError for anything malformed."""
    try:
        return msgpack.unpackb(
            data,
            ext_hook=_value,
            strict_map_key=False,
            max_array_len=_MAX_ELEMENTS,
            max_map_len=_MAX_ELEMENTS,
        )
    except (msgpack.exceptions.UnpackException, TypeError, RuntimeError) as error:
        raise ValueError(f"malformed message: {error}") from error


def _extension(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        raw = value.detach().cpu().contiguous()
        name = str(raw.dtype).removeprefix("torch.")
        return msgpack.ExtType(
            _TENSOR, _array(name, raw.shape, raw.reshape(-1).view(torch.uint8).numpy().tobytes())
        )
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return msgpack.ExtType(_NDARRAY, _array(value.dtype.str, value.shape, value.tobytes()))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, encode(list(value)))
    raise TypeError(f"cannot send a {type(value).__name__}; convert it in _to_message")


def _array(dtype: str, shape: Any, data: bytes) -> bytes:
    packed: bytes = msgpack.packb([dtype, list(shape), data])
    return packed


def _value(code: int, data: bytes) -> Any:
    if code == _TUPLE:
        return tuple(decode(data))
    dtype, shape, raw = msgpack.unpackb(data)
    writable = bytearray(raw)
    if code == _NDARRAY:
        return np.frombuffer(writable, dtype=np.dtype(dtype)).reshape(shape)
    if code == _TENSOR:
        torch_dtype = getattr(torch, dtype)
        if not isinstance(torch_dtype, torch.dtype):
            raise ValueError(f"no dtype {dtype}")
        return (
            torch.frombuffer(writable, dtype=torch_dtype).reshape(shape)
            if raw
            else torch.empty(shape, dtype=torch_dtype)
        )
    raise ValueError(f"unknown extension {code}")
