"""Handwritten digits in a heavily unbalanced setting: no site ever sees more than four of the ten."""

import torch
from nvflare.job_config.api import FedJob
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.executors import GTExecutor
from flaremesh.p2p.networks import generate_random_network
from flaremesh.p2p.types import Config


def images(classes: list[int]) -> tuple[TensorDataset, TensorDataset]:
    """Training images of some classes, and test images of all."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long()
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=400, stratify=y, random_state=0)
    mine = torch.isin(y_train, torch.tensor(classes))
    return TensorDataset(x_train[mine], y_train[mine]), TensorDataset(x_test, y_test)


class DigitsExecutor(GTExecutor):
    def __init__(self, classes: list[int]):
        self.classes = classes
        torch.manual_seed(0)
        train, test = images(classes)
        super().__init__(
            model=torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)),
            loss=torch.nn.CrossEntropyLoss(),
            train_dataloader=DataLoader(train, batch_size=128, shuffle=True),
            test_dataloader=DataLoader(test, batch_size=400),
        )


CLASSES = {"site-1": [0, 1, 2, 3], "site-2": [4, 5, 6], "site-3": [7, 8, 9]}


def digits_job() -> FedJob:
    network, _ = generate_random_network(len(CLASSES), p=0.6, seed=1)
    job = FedJob(name="digits")
    extra = {"iterations": 200, "stepsize": 0.3}
    job.to_server(DistOptController(config=Config(network=network, extra=extra)))
    for site, classes in CLASSES.items():
        job.to(DigitsExecutor(classes), site)
    return job


if __name__ == "__main__":
    digits_job().simulator_run("build/digits")
