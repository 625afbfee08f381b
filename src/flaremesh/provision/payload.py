"""How long the messages of a run are, which only its problem can tell."""

import torch

from flaremesh import algorithms, gossip
from flaremesh.problems.delivery import delivered
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.contract import CheckedProblem
from flaremesh.topology.schema import Topology


def payload_bytes(topology: Topology) -> int:
    """Build the first site's problem and ask the algorithm for its first message, without a gradient.

    Raises:
        ProblemError: the problem cannot be built here.
        DeliveryError: see problems.delivery.deliver.
    """
    run = topology.run
    site = SiteContext.here(topology.sites[0].name, 0, len(topology.sites), run.seed)
    with delivered(run.problem) as build_problem:
        problem = CheckedProblem(build_problem(site), site.name)
        algorithm = algorithms.configured(run)
        message = algorithm.message(algorithm.init(problem.initial(), torch.zeros_like))
        buffers = problem.buffers() if run.mix_buffers else None
    vectors = message if buffers is None else (*message, buffers)
    return gossip.message_bytes(run.wire, vectors, exact_last=buffers is not None)
