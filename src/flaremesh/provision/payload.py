"""How long the messages of a run are, which only its problem can tell."""

from flaremesh import algorithms, gossip
from flaremesh.problems.delivery import delivered
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.contract import CheckedProblem
from flaremesh.topology.schema import Topology


def payload_bytes(topology: Topology) -> int:
    """Bytes that an iteration sends over each link, summed over its exchanges.

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
    total = 0
    for stage, exchange in enumerate(algorithms.configured(run).exchanges):
        lengths = exchange.lengths(initial.numel())
        message = [initial.new_empty(length, device="meta") for length in lengths]
        if buffers is not None and stage == 0:
            total += gossip.message_bytes(run.wire, [*message, buffers], exact_last=True)
        else:
            total += gossip.message_bytes(run.wire, message)
    return total
