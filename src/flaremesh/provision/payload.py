"""What of a run only its problem can tell: how long its messages are, and how long a gradient takes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from torch import Tensor

from flaremesh import algorithms, gossip
from flaremesh.problems.delivery import delivered
from flaremesh.problems.protocol import SiteContext
from flaremesh.provision.prediction import Load, WireLoads
from flaremesh.runtime.contract import CheckedProblem
from flaremesh.topology.aggregation import WIRES
from flaremesh.topology.schema import Topology, Wire

_GRADIENTS = 6


def loads(topology: Topology, wires: Sequence[Wire]) -> WireLoads:
    """What each exchange of an iteration sends over each edge, for each of ``wires``.

    Builds the first site's problem; the lengths of the messages are those that the algorithm declares.

    Raises:
        ProblemError: the problem cannot be built here.
        DeliveryError: the problem cannot travel to the sites.
    """
    run = topology.run
    with _problem_of(topology) as problem:
        initial = problem.initial()
        buffers = problem.buffers() if run.mix_buffers else None
    messages = []
    for stage, exchange in enumerate(algorithms.configured(run).exchanges):
        lengths = exchange.lengths(initial.numel())
        message = [initial.new_empty(length, device="meta") for length in lengths]
        if buffers is not None and stage == 0:
            messages.append(([*message, buffers], True))
        else:
            messages.append((message, False))
    hidden = run.privacy.secure_aggregation
    return [(wire, [_load(wire, *message, hidden) for message in messages]) for wire in wires]


def step_seconds(topology: Topology) -> float:
    """Median of what a gradient, or a local step, of the first site's problem takes here, after a first one.

    Raises:
        ProblemError: the problem cannot be built here, or fails.
        DeliveryError: it cannot travel to the sites.
    """
    with _problem_of(topology) as problem:
        x = problem.initial()
        times = []
        for _ in range(_GRADIENTS):
            started = time.perf_counter()
            if problem.trains:
                problem.train(x, 1, topology.run.stepsize or 0.0, None)
            else:
                problem.loss_and_gradient(x)
            times.append(time.perf_counter() - started)
    return median(times[1:])


@contextmanager
def _problem_of(topology: Topology) -> Iterator[CheckedProblem]:
    """The first site's problem."""
    site = SiteContext.here(topology.sites[0].name, 0, len(topology.sites), topology.run.seed)
    with delivered(topology.run.problem) as build_problem:
        yield CheckedProblem(build_problem(site), site.name)


def _load(wire: Wire, message: list[Tensor], exact_last: bool, hidden: bool) -> Load:
    if hidden and wire.encoding in WIRES:
        length = gossip.aggregate_bytes(wire, message, announced=True)
    else:
        length = gossip.message_bytes(wire, message, exact_last=exact_last)
    return Load(length, sum(vector.numel() for vector in message))
