"""Vectors as the bytes that links carry."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flaremesh.links import LinkError, Payload


def payload_of(vector: Tensor) -> memoryview:
    """The bytes of a contiguous vector (d,); on the CPU they alias it."""
    array: NDArray[np.uint8] = vector.detach().cpu().view(torch.uint8).numpy()
    return array.data


def vector_of(payload: Payload, like: Tensor, peer: str) -> Tensor:
    """The vector that ``peer`` sent, on the device of ``like``.

    Raises LinkError unless it has the length of ``like`` (d,) in the dtype of ``like``.
    """
    expected = like.numel() * like.element_size()
    if len(payload) != expected:
        raise LinkError(f"{peer} sent {len(payload)} bytes, expected {expected}: is its model another one?")
    if memoryview(payload).readonly:
        payload = memoryview(bytearray(payload))  # torch wants writable memory, though it only reads here
    return torch.frombuffer(payload, dtype=like.dtype).to(like.device)
