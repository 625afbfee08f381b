"""How long the messages of a run are, which only its problem can tell."""

from collections.abc import Sequence

from torch import Tensor

from flaremesh import algorithms, gossip
from flaremesh.problems.delivery import delivered
from flaremesh.problems.protocol import SiteContext
from flaremesh.provision.prediction import Load, WireLoads
from flaremesh.runtime.contract import CheckedProblem
from flaremesh.topology.schema import Topology, Wire


def loads(topology: Topology, wires: Sequence[Wire]) -> WireLoads:
    """What each exchange of an iteration sends over each edge, for each of ``wires``.

    Builds the first site's problem; the lengths of the messages are those that the algorithm declares.

    Raises:
        ProblemError: the problem cannot be built here.
        DeliveryError: the problem cannot travel to the sites.
    """
    run = topology.run
    site = SiteContext.here(topology.sites[0].name, 0, len(topology.sites), run.seed)
    with delivered(run.problem) as build_problem:
        problem = CheckedProblem(build_problem(site), site.name)
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
    return [(wire, [_load(wire, *message) for message in messages]) for wire in wires]


def _load(wire: Wire, message: list[Tensor], exact_last: bool) -> Load:
    length = gossip.message_bytes(wire, message, exact_last=exact_last)
    return Load(length, sum(vector.numel() for vector in message))
