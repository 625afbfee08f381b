"""A script for one rank or several, each of which takes its part of every batch."""

import os
from typing import Any

import nvflare.client as flare
import torch
import torch.distributed as dist
from net import Net
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

if "RANK" not in os.environ:
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
flare.init(rank=rank)
print(f"rank {rank} of {ranks}", flush=True)

data = load_digits()
inputs = torch.tensor(data.data / 16, dtype=torch.float32)
labels = torch.tensor(data.target)
model = DistributedDataParallel(Net())


def from_first(value: Any) -> Any:
    """The first rank's value, at all ranks."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


while from_first(flare.is_running() if rank == 0 else None):
    received = flare.receive()
    model.module.load_state_dict(from_first(received and received.params))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(3):
        batch = slice(64 * step + rank, 64 * (step + 1), ranks)
        optimizer.zero_grad()
        cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    flare.send(flare.FLModel(params=model.module.state_dict(), metrics={"ranks": ranks}))
dist.destroy_process_group()
