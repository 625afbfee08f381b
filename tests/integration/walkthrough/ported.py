"""Executors and a controller in the ways in which people wrote them for nvflare.app_opt.p2p."""

import time

import torch
from nvflare.apis.controller_spec import Task
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.job_config.api import FedJob
from torch.utils.data import DataLoader, TensorDataset

from flaremesh.p2p.controllers.dist_opt_controller import DistOptController
from flaremesh.p2p.executors.consensus import ConsensusExecutor
from flaremesh.p2p.executors.distributed_gradient_descent import DGDExecutor
from flaremesh.p2p.executors.sync_executor import SyncAlgorithmExecutor
from flaremesh.p2p.types import Config, Neighbor, Network, Node


class AuxExecutor(SyncAlgorithmExecutor):
    """Sends by NVFlare's own messages, and waits by itself."""

    def __init__(self, initial_value, sync_timeout=10):
        super().__init__(sync_timeout)
        self.initial_value = self.current_value = initial_value
        self.value_history = [self.current_value]

    def _exchange_values(self, fl_ctx, value, iteration):
        self.sync_waiter.clear()
        fl_ctx.get_engine().send_aux_request(
            targets=[neighbor.id for neighbor in self.neighbors],
            topic="send_value",
            request=DXO(
                data_kind=DataKind.METRICS,
                data={"value": self._to_message(value), "iteration": iteration},
            ).to_shareable(),
            timeout=10,
            fl_ctx=fl_ctx,
        )
        while len(self.neighbors_values[iteration]) < len(self.neighbors):
            time.sleep(0.01)

    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        for iteration in range(from_shareable(shareable).data["iterations"]):
            self._exchange_values(fl_ctx, value=self.current_value, iteration=iteration)
            current_value = self.current_value * self._weight
            for neighbor in self.neighbors:
                current_value += self.neighbors_values[iteration][neighbor.id] * neighbor.weight
            self.current_value = current_value
            self.value_history.append(current_value)
            del self.neighbors_values[iteration]

    def _post_algorithm_run(self, *args, **kwargs):
        torch.save(torch.tensor(self.value_history), "value_sequence.pt")


class MaskedExecutor(ConsensusExecutor):
    """Sends something else than its value, and hears of no event."""

    def handle_event(self, event_type, fl_ctx):
        if event_type == EventType.START_RUN:
            self.begun = time.time()

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        return super().execute(task_name, shareable, fl_ctx, abort_signal)

    def _to_message(self, x):
        return {"masked": x + 1}

    def _from_message(self, x):
        return x["masked"] - 1


class PanickingExecutor(ConsensusExecutor):
    """Ends the run as the stock package's executors do when something is wrong."""

    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        self._exchange_values(fl_ctx, self.current_value, 0)
        if self.client_name == "site-2":
            self.system_panic("the data look wrong", fl_ctx)
            return
        self._exchange_values(fl_ctx, self.current_value, 1)


class NoisyExecutor(DGDExecutor):
    """Adds a constant to all parameters that it sends."""

    def __init__(self, seed, noise):
        self.seed, self.noise = seed, noise
        torch.manual_seed(seed)
        x = torch.randn(32, 3)
        data = DataLoader(TensorDataset(x, x.sum(dim=1, keepdim=True)), batch_size=8)
        super().__init__(torch.nn.Linear(3, 1), torch.nn.MSELoss(), data, data)

    def _to_message(self, x):
        return [array + self.noise for array in super()._to_message(x)]


class OwnController(DistOptController):
    """Has a control flow of its own: the stock package's."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.config = config

    def control_flow(self, abort_signal, fl_ctx):
        for node in self.config.network.nodes:
            data = {"neighbors": [neighbor.__dict__ for neighbor in node.neighbors]}
            task = Task(name="config", data=DXO(DataKind.APP_DEFINED, data=data).to_shareable())
            self.send_and_wait(task=task, targets=[node.id], fl_ctx=fl_ctx)
        data = dict(self.config.extra.items())
        self.broadcast_and_wait(
            task=Task(name="run_algorithm", data=DXO(DataKind.APP_DEFINED, data=data).to_shareable()),
            targets=[node.id for node in self.config.network.nodes],
            min_responses=0,
            fl_ctx=fl_ctx,
        )


def pairs_job(controller: type[DistOptController], *pairs: tuple, **extra) -> FedJob:
    """Sites that have one neighbour each: two for each pair of executors."""
    nodes = [
        Node(id=f"site-{site}", neighbors=[Neighbor(id=f"site-{(site - 1 ^ 1) + 1}", weight=0.25)])
        for site in range(1, 2 * len(pairs) + 1)
    ]
    job = FedJob(name="pairs")
    job.to_server(controller(config=Config(network=Network(nodes=nodes), extra=extra)))
    for site, executor in enumerate([executor for pair in pairs for executor in pair]):
        job.to(executor, f"site-{site + 1}")
    return job
