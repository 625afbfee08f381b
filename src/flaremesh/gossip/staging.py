"""Copies between vectors, which may be on a GPU, and the bytes in host memory that links carry."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from flaremesh.links import Payload
from flaremesh.links.buffers import Buffer, BufferPool

_POOLED_BYTES = 1 << 18  # from this size on, fresh memory costs more time than what is computed in it


class Staging(Protocol):
    """Brings encoded vectors and messages, (bytes,) uint8, to where they are needed next."""

    def take(self, length: int, dtype: torch.dtype) -> Tensor:
        """Uninitialised memory for ``length`` entries of ``dtype``, on the device of the vectors."""

    def download(self, encoded: Sequence[Tensor]) -> list[Payload]:
        """Encoded vectors in host memory, as links take them: complete, and never changed again."""

    def upload(self, message: Tensor) -> Tensor:
        """A message from host memory, on the device of the vectors."""


class HostStaging(Staging):
    """Vectors in host memory: nothing is copied."""

    def __init__(self) -> None:
        self._pool = BufferPool()

    @override
    def take(self, length: int, dtype: torch.dtype) -> Tensor:
        size = length * dtype.itemsize
        if size < _POOLED_BYTES:
            return torch.empty(length, dtype=dtype)
        return torch.from_numpy(self._pool.take(size)).view(dtype)

    @override
    def download(self, encoded: Sequence[Tensor]) -> list[Payload]:
        return [tensor.numpy().data for tensor in encoded]

    @override
    def upload(self, message: Tensor) -> Tensor:
        return message


class DeviceStaging(Staging):
    """Vectors on a GPU: copies run on a stream of their own, from and to pinned memory.

    The host waits once a part, for what it is about to send; for what was received only the GPU waits.

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

    @override
    def take(self, length: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(length, dtype=dtype, device=self._device)

    @override
    def download(self, encoded: Sequence[Tensor]) -> list[Payload]:
        self._copies.wait_stream(self._streams.current_stream(self._device))
        with self._streams.stream(self._copies):
            arrived = [
                torch.from_numpy(self._pool.take(tensor.numel())).copy_(tensor, non_blocking=True)
                for tensor in encoded
            ]
            done = self._streams.Event()
            done.record(self._copies)
        done.synchronize()
        self._uploading.clear()  # these uploads preceded on the same stream, so they are complete
        return [tensor.numpy().data for tensor in arrived]

    @override
    def upload(self, message: Tensor) -> Tensor:
        staged = torch.from_numpy(self._pool.take(message.numel())).copy_(message)
        self._uploading.append(staged)  # kept until the GPU has read it
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
    """A payload as (bytes,) uint8 in host memory, without a copy where its memory is writable."""
    if memoryview(payload).readonly:
        payload = memoryview(bytearray(payload))  # torch wants writable memory, though nobody writes to it
    return torch.frombuffer(payload, dtype=torch.uint8)


def _pinned(length: int) -> Buffer:
    array: Buffer = torch.empty(length, dtype=torch.uint8, pin_memory=True).numpy()
    return array
