"""Averaging numbers over a directed ring of three sites."""

import random
from pathlib import Path

import torch
from nvflare.apis.dxo import from_shareable
from nvflare.job_config.api import FedJob

from flaremesh.p2p.controllers import DistOptController
from flaremesh.p2p.executors import SyncAlgorithmExecutor
from flaremesh.p2p.types import Config, Neighbor, Network, Node


class RingConsensusExecutor(SyncAlgorithmExecutor):
    def __init__(self, initial_value: float | None = None):
        super().__init__()
        self.initial_value = random.random() if initial_value is None else initial_value
        self.current_value = self.initial_value
        self.value_history = [self.current_value]

    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        iterations = from_shareable(shareable).data["iterations"]

        for iteration in range(iterations):
            # 1. exchange values
            self._exchange_values(fl_ctx, value=self.current_value, iteration=iteration)

            # 2. compute new value
            current_value = self.current_value * self._weight
            for neighbor in self.neighbors:
                current_value += self.neighbors_values[iteration][neighbor.id] * neighbor.weight

            # 3. store current value
            self.current_value = current_value
            self.value_history.append(current_value)

            # free memory that's no longer needed
            del self.neighbors_values[iteration]

    def _post_algorithm_run(self, fl_ctx, shareable, abort_signal):
        run_folder = Path(fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id()))
        torch.save(torch.tensor(self.value_history), run_folder / "value_sequence.pt")


def consensus_job(values: dict[str, float], executors: dict[str, type] | None = None, **extra) -> FedJob:
    """Each site lists the next one, closing the ring."""
    sites = list(values)
    nodes = [
        Node(id=site, neighbors=[Neighbor(id=after, weight=0.1)])
        for site, after in zip(sites, sites[1:] + sites[:1], strict=True)
    ]
    job = FedJob(name="consensus")
    job.to_server(DistOptController(config=Config(network=Network(nodes=nodes), extra=extra)))
    for site, value in values.items():
        executor = (executors or {}).get(site, RingConsensusExecutor)
        job.to(executor(initial_value=value), site)
    return job


if __name__ == "__main__":
    consensus_job({"site-1": 1.0, "site-2": 5.0, "site-3": 12.0}, iterations=100).simulator_run(
        "build/consensus"
    )
