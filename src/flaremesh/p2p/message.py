"""Values of `_exchange_values` as bytes: numbers, strings, arrays and tensors, in lists, tuples and dicts.

Nothing that arrives is executed: msgpack carries the structure, arrays are raw bytes, a dtype and a shape.
"""

from functools import partial
from typing import Any

import msgpack
import numpy as np
import torch

_NDARRAY, _TENSOR, _TUPLE = 1, 2, 3
_MAX_ELEMENTS = 1 << 16  # of one list or dict: a message has few, long arrays
_MAX_TUPLES = 16  # in one another: each is unpacked by a call within the call for the outer one

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
    packed: bytes = msgpack.packb(value, default=_extension, strict_types=True)
    return packed


def decode(data: bytes | memoryview) -> Any:
    """The value again, with arrays and tensors of its own; raises ValueError for anything malformed."""
    try:
        return _unpack(data, 0)
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"malformed message: {error}") from error


def _unpack(data: bytes | memoryview, depth: int) -> Any:
    if depth > _MAX_TUPLES:
        raise ValueError(f"more than {_MAX_TUPLES} tuples in one another")
    return msgpack.unpackb(
        data,
        ext_hook=partial(_value, depth + 1),
        strict_map_key=False,
        max_array_len=_MAX_ELEMENTS,
        max_map_len=_MAX_ELEMENTS,
    )


def _extension(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _TORCH_DTYPES.values():
        flat = value.detach().cpu().reshape(-1)
        name = str(value.dtype).removeprefix("torch.")
        return msgpack.ExtType(_TENSOR, _array(name, value.shape, flat.view(torch.uint8).numpy().tobytes()))
    if isinstance(value, np.ndarray) and value.dtype.str in _NUMPY_DTYPES:
        return msgpack.ExtType(_NDARRAY, _array(value.dtype.str, value.shape, value.tobytes()))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, encode(list(value)))
    if isinstance(value, dict):  # of a class of its own, such as a state_dict
        return dict(value)
    dtype = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
    raise TypeError(f"cannot send a {type(value).__name__}{dtype}; convert it in _to_message")


def _array(dtype: str, shape: Any, data: bytes) -> bytes:
    packed: bytes = msgpack.packb([dtype, list(shape), data])
    return packed


def _value(depth: int, code: int, data: bytes) -> Any:
    if code == _TUPLE:
        return tuple(_unpack(data, depth))
    dtype, shape, raw = msgpack.unpackb(data)
    flat = np.frombuffer(bytearray(memoryview(raw)), dtype=np.uint8)
    try:
        if code == _NDARRAY:
            return flat.view(_NUMPY_DTYPES[dtype]).reshape(shape)
        if code == _TENSOR:
            return torch.from_numpy(flat).view(_TORCH_DTYPES[dtype]).reshape(shape)
    except KeyError:
        raise ValueError(f"no dtype {dtype}") from None
    raise ValueError(f"unknown extension {code}")
