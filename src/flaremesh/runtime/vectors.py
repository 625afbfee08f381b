"""Vectors as the bytes that links carry, and numbers as Python's."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flaremesh.gossip.staging import bytes_of
from flaremesh.links import Payload, require_length


def payload_of(vector: Tensor) -> memoryview:
    """The bytes of a contiguous vector (d,); on the CPU they alias it."""
    array: NDArray[np.uint8] = vector.detach().cpu().view(torch.uint8).numpy()
    return array.data


def vector_of(payload: Payload, like: Tensor, peer: str) -> Tensor:
    """The vector that ``peer`` sent, of the length, dtype and device of ``like`` (d,).

    Raises:
        LinkError: the payload has another length.
    """
    require_length(payload, like.numel() * like.element_size(), peer)
    return bytes_of(payload).view(like.dtype).to(like.device)


def floats(*scalars: Tensor | float) -> list[float]:
    """The numbers in 0-d tensors; those on a GPU are waited for together."""
    gpus = {scalar.device for scalar in scalars if isinstance(scalar, Tensor) and scalar.is_cuda}
    if not gpus:
        return [float(scalar) for scalar in scalars]
    device = gpus.pop()
    together = [torch.as_tensor(scalar, dtype=torch.float64, device=device).reshape(()) for scalar in scalars]
    numbers: list[float] = torch.stack(together).tolist()
    return numbers
