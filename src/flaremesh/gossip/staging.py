"""Between vectors, which may live on a GPU, and the bytes in host memory that links carry."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from flaremesh.links import Payload
from flaremesh.links.buffers import Buffer, BufferPool

_POOLED_BYTES = 1 << 18  # from here on, fresh memory costs more than all that is done in it


class Staging(Protocol):
    """Encoded vectors and messages are (bytes,) uint8."""

    def take(self, length: int, dtype: torch.dtype) -> Tensor:
        """See mixing.Take."""

    def download(self, encoded: Sequence[Tensor]) -> list[Payload]:
        """Encoded vectors as links take them: complete, and never changed again."""

    def upload(self, message: Tensor) -> Tensor:
        """A message from host memory, beside the vectors."""


class HostStaging:
    """Vectors in host memory: nothing is copied."""

    def __init__(self) -> None:
        self._pool = BufferPool()

    def take(self, length: int, dtype: torch.dtype) -> Tensor:
        """See Staging."""
        size = length * dtype.itemsize
        if size < _POOLED_BYTES:
            return torch.empty(length, dtype=dtype)
        return torch.from_numpy(self._pool.take(size)).view(dtype)

    def download(self, encoded: Sequence[Tensor]) -> list[Payload]:
        """See Staging."""
        return [tensor.numpy().data for tensor in encoded]

    def upload(self, message: Tensor) -> Tensor:
        """See Staging."""
        return message


class DeviceStaging:
    """Vectors on a GPU: copies run on a stream of their own, from and to pinned memory.

    The host waits once an exchange, for what it is about to send; for what was received only the GPU waits.

    Args:
        device: the GPU. The CPU will do for tests of all but the waiting.
    """

    def __init__(self, device: torch.device):
        on_gpu = device.type == "cuda"
        self._device = device
        self._streams: Any = torch.cuda if on_gpu else torch.cpu
        self._copies = self._streams.Stream(device)
        self._pool = BufferPool(_pinned) if on_gpu else BufferPool()
        self._uploading: list[Tensor] = []

    def take(self, length: int, dtype: torch.dtype) -> Tensor:
        """See Staging."""
        return torch.empty(length, dtype=dtype, device=self._device)

    def download(self, encoded: Sequence[Tensor]) -> list[Payload]:
        """See Staging."""
        self._copies.wait_stream(self._streams.current_stream(self._device))
        with self._streams.stream(self._copies):
            arrived = [
                torch.from_numpy(self._pool.take(tensor.numel())).copy_(tensor, non_blocking=True)
                for tensor in encoded
            ]
            done = self._streams.Event()
            done.record(self._copies)
        done.synchronize()
        self._uploading.clear()  # they were on this stream before
        return [tensor.numpy().data for tensor in arrived]

    def upload(self, message: Tensor) -> Tensor:
        """See Staging."""
        staged = torch.from_numpy(self._pool.take(message.numel())).copy_(message)
        self._uploading.append(staged)  # until it has left, which only the GPU knows
        with self._streams.stream(self._copies):
            arrived = staged.to(self._device, non_blocking=True)
        stream = self._streams.current_stream(self._device)
        stream.wait_stream(self._copies)
        if arrived.is_cuda:
            arrived.record_stream(stream)
        return arrived


def staging_for(device: torch.device) -> Staging:
    """The staging of vectors on a device."""
    return DeviceStaging(device) if device.type == "cuda" else HostStaging()


def bytes_of(payload: Payload) -> Tensor:
    """What has arrived, (bytes,) uint8 in host memory, without a copy where torch allows it."""
    if memoryview(payload).readonly:
        payload = memoryview(bytearray(payload))  # torch wants writable memory, though nobody writes to it
    return torch.frombuffer(payload, dtype=torch.uint8)


def _pinned(length: int) -> Buffer:
    array: Buffer = torch.empty(length, dtype=torch.uint8, pin_memory=True).numpy()
    return array
