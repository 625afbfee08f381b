"""Acts as the process of a run: python run_process.py RUN_ID ITERATIONS; ends when its input does."""

import sys

from flaremesh.metrics.names import RunState
from flaremesh.metrics.prometheus import PrometheusSink
from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.topology.neighborhood import Neighborhood

run_id, iterations = sys.argv[1], int(sys.argv[2])
hood = Neighborhood("bonn", 0.5, {"aachen": 0.25, "köln": 0.25}, ("köln",))
sink = PrometheusSink(run_id, "dgd", "ring3", iterations, [hood])
sink.state(RunState.RUNNING)
for k in range(1, iterations + 1):
    sink.sent("köln", 100)
    sink.received("aachen", 50)
    sink.iteration(Iteration(k, 1 / k, 0.1 / k, seconds=0.002, wait_seconds=0.001, gradient_seconds=0.0007))
sink.linked("bonn", "direct")
sink.refused("aachen", "oversized")
sink.refused("mallory", "stranger")
sink.refused("eve", "stranger")
sink.evaluation(Evaluation(iterations, {"loss": 0.25, "accuracy": 0.75}))
sys.stdout.write("ran\n")
sys.stdout.flush()
sys.stdin.read()
sink.state(RunState.FINISHED)
