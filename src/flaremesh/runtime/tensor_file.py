"""Tensors in a file of the safetensors format, written without stopping the threads that compute.

safetensors' own function copies all tensors and holds Python's lock while it writes them. The format is eight
bytes with the length of a header in JSON, the header, and the tensors' memory: see
https://huggingface.co/docs/safetensors.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

_NAMES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 1 << 22  # bytes that are hashed while they are in the cache, and written


def write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors on any device; returns the SHA-256 of the file in hexadecimal.

    Raises:
        TypeError: the format has no such tensor.
        OSError: the file cannot be written.
    """
    header, start = {}, 0
    # the widest first, so that each starts at a multiple of its numbers' width
    ordered = sorted(tensors.items(), key=lambda named: -named[1].element_size())
    for name, tensor in ordered:
        if tensor.dtype not in _NAMES or tensor.layout is not torch.strided:
            raise TypeError(f"a tensor of {tensor.dtype}, {tensor.layout} cannot be written")
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": [*tensor.shape],
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:

        def put(data: bytes | memoryview) -> None:
            digest.update(data)
            while data:  # an unbuffered file may take a part
                data = data[file.write(data) :]

        put(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            for begin in range(0, len(content), _CHUNK):
                put(content[begin : begin + _CHUNK])
    return digest.hexdigest()
