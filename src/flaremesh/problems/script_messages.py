"""What a run and the process of its script say to each other: what is said, and tensors in named groups."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

CHANNEL_VARIABLE: Final = "FLAREMESH_SCRIPT_CHANNEL"
"""In the environment of a script's process: the socket at which its run waits for it."""

RANK: Final = "rank-{}"
"""Beside that socket: a file for each rank of the script that has begun, with its process's id."""

SITE_VARIABLE: Final = "FLAREMESH_SCRIPT_SITE"
"""There, too: the name of its site."""

PARAMS, CONTROL = "params", "control"
"""Groups of tensors: the model, and a correction of the script's steps."""

LOGGED: Final = "logged"
"""In an answer: what the script has logged since the last one, a list of (step or None, numbers by name)."""

MOST_LOGGED_STEPS: Final = 10_000
"""So many steps may it name in one answer."""


@dataclass(frozen=True)
class Message:
    """What one end says to the other.

    Attributes:
        kind: to the script: ``train``, ``validate`` or ``stop``; from it: ``ready`` when it has called
            ``flare.init()``, ``answer``, or ``failed``.
        said: numbers, texts, and mappings of them.
        tensors: by group and name, of any shapes, on the CPU.
    """

    kind: str
    said: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def send(self, connection: Connection) -> None:
        """Send it.

        Raises:
            OSError: the other end is gone.
        """
        groups = [*self.tensors]  # by number, since the name of a tensor may have any character
        # copies: tied parameters share memory, which the format does not know
        named = {
            f"{groups.index(group)}/{name}": tensor.detach().clone(memory_format=torch.contiguous_format)
            for group, tensors in self.tensors.items()
            for name, tensor in tensors.items()
        }
        connection.send_bytes(json.dumps([self.kind, self.said, groups]).encode())
        connection.send_bytes(safetensors.torch.save(named))

    @staticmethod
    def receive(connection: Connection) -> "Message":
        """The next message of the other end.

        Raises:
            EOFError, OSError: the other end is gone.
            ValueError: what it sends is no message.
        """
        kind, said, groups = json.loads(connection.recv_bytes())
        tensors: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
        for name, tensor in safetensors.torch.load(connection.recv_bytes()).items():
            group, _, own = name.partition("/")
            tensors[groups[int(group)]][own] = tensor
        return Message(str(kind), said, tensors)
