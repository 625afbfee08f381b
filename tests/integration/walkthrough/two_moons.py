"""Telling two moons apart: one network, three algorithms."""

import torch
from nvflare.job_config.api import FedJob
from sklearn.datasets import make_moons
from torch.utils.data import DataLoader, TensorDataset

from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.executors import DGDExecutor, GTADAMExecutor, GTExecutor
from flaremesh.p2p.networks import generate_random_network
from flaremesh.p2p.types import Config


def moons(samples: int, seed: int, batch_size: int, shuffle: bool) -> DataLoader:
    points, labels = make_moons(samples, noise=0.1, random_state=seed)
    dataset = TensorDataset(torch.from_numpy(points).float(), torch.from_numpy(labels).long())
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle)


def parts(seed: int) -> dict:
    torch.manual_seed(seed)
    return {
        "model": torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)),
        "loss": torch.nn.CrossEntropyLoss(),
        "train_dataloader": moons(256, seed, batch_size=128, shuffle=True),
        "test_dataloader": moons(500, seed=0, batch_size=500, shuffle=False),
    }


class MoonsDGDExecutor(DGDExecutor):
    def __init__(self, seed: int):
        self.seed = seed
        super().__init__(**parts(seed))


class MoonsGTExecutor(GTExecutor):
    def __init__(self, seed: int):
        self.seed = seed
        super().__init__(**parts(seed))


class MoonsGTADAMExecutor(GTADAMExecutor):
    def __init__(self, seed: int):
        self.seed = seed
        super().__init__(**parts(seed))


RUNS = {
    "dgd": (MoonsDGDExecutor, {"iterations": 150, "stepsize": 1.0}),
    "gt": (MoonsGTExecutor, {"iterations": 250, "stepsize": 0.8}),
    "gtadam": (
        MoonsGTADAMExecutor,
        {"iterations": 150, "stepsize": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-2},
    ),
}


def two_moons_job(algorithm: str, num_clients: int = 3) -> FedJob:
    executor, extra = RUNS[algorithm]
    network, _ = generate_random_network(num_clients, p=0.6, seed=1)
    job = FedJob(name=f"two-moons-{algorithm}")
    job.to_server(DistOptController(config=Config(network=network, extra=extra)))
    for i in range(num_clients):
        job.to(executor(seed=i + 1), f"site-{i + 1}")
    return job


if __name__ == "__main__":
    for name in RUNS:
        two_moons_job(name).simulator_run(f"build/two-moons-{name}")
