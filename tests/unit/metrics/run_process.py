"""Acts as the process of a run: python run_process.py RUN_ID ITERATIONS; ends when its input does."""

import sys
from types import SimpleNamespace

from flaremesh.links import Refusal
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.names import RunState
from flaremesh.metrics.prometheus import PrometheusSink
from flaremesh.metrics.sink import Evaluation, Iteration, Norms
from flaremesh.topology.links import LinkKind
from flaremesh.topology.neighborhood import Neighborhood

run_id, iterations = sys.argv[1], int(sys.argv[2])
hood = Neighborhood("bonn", 0.5, {"aachen": 0.25, "köln": 0.25}, ("köln",))
traffic = TrafficCounter(["aachen", "köln"])
sink = PrometheusSink(run_id, "dgd", "ring3", iterations, [hood], traffic, 0.1, predicted_contraction=0.5)
sink.checkpoints = SimpleNamespace(written_at=1.5e9, failures=2)
sink.clips = {"aachen": 1.5}
sink.spending = SimpleNamespace(epsilon=6.5, most_epsilon=8.0)
sink.ranks = lambda: 2
sink.state(RunState.RUNNING)
for k in range(1, iterations + 1):
    traffic.sent("köln", 100)
    traffic.received("aachen", 50)
    traffic.waited("aachen", 0.001)
    sink.iteration(Iteration(k, 1 / k, 0.1 / k, seconds=0.002, wait_seconds=0.001, gradient_seconds=0.0007))
traffic.linked("köln", LinkKind.RELAY, wanted=LinkKind.DIRECT)
sink.norms(Norms(iterations, gradient=3.0, innovation=0.3))
traffic.refused("aachen", Refusal.OVERSIZED)
traffic.refused("mallory", Refusal.STRANGER)
traffic.refused("eve", Refusal.STRANGER)
sink.evaluation(Evaluation(iterations, {"loss": 0.25, "accuracy": 0.75}, seconds=0.02))
sink.state(RunState.RUNNING)  # writes the page at once
sys.stdout.write("ran\n")
sys.stdout.flush()
sys.stdin.read()
sink.state(RunState.FINISHED)
