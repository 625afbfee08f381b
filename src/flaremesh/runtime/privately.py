"""The gradient of a site's problem, clipped and noised as its run's privacy budget wants it."""

from typing import Any

from torch import Tensor

from flaremesh.algorithms import Algorithm
from flaremesh.privacy.accounting import PrivacyError, budget_of
from flaremesh.privacy.noise import NoisedGradient, Secrets, clipped
from flaremesh.privacy.queries import queries_of
from flaremesh.runtime.contract import CheckedProblem
from flaremesh.runtime.options import RunOptions


def noised(
    problem: CheckedProblem,
    algorithm: Algorithm[Any],
    options: RunOptions,
    secrets: Secrets,
    *,
    phases: int,
    resumable: bool,
) -> NoisedGradient:
    """What takes the place of a problem's gradient in a run with a budget.

    Args:
        problem: of the site.
        algorithm: that asks it.
        options: of the run.
        secrets: from which the noise is made.
        phases: how many mixing matrices take turns.
        resumable: whether the run goes on after a loss.

    Raises:
        PrivacyError: the budget would not hold, or not one iteration fits it.
        MissingAccountant: nothing here accounts for it.
    """
    privacy, site = options.privacy, problem.site
    if reason := privacy.unsoundness(asynchronous=options.asynchronous, phases=phases, resumable=resumable):
        raise PrivacyError(reason)
    if problem.trains:
        raise PrivacyError(
            f"the problem of {site} takes its steps itself, with an optimiser or a script of its own, and no "
            "noise could be added to their gradients; leave the optimizer out, or remove run.privacy.epsilon"
        )
    if problem.buffers() is not None:
        raise PrivacyError(
            f"the model of {site} has buffers, such as BatchNorm's statistics, which are made of its data "
            "and leave the site without noise; take GroupNorm, or register constants with persistent=False"
        )
    budget = budget_of(privacy, queries_of(algorithm), options.iterations, secrets.pairs)
    assert budget is not None, "there is an epsilon"
    clip, examples = float(privacy.clip or 0.0), privacy.examples

    def whole(x: Tensor) -> Tensor:
        return clipped(problem.loss_and_gradient(x)[1], clip)

    def by_example(x: Tensor) -> Tensor:
        return problem.clipped_gradient(x, clip, examples or 1)

    if examples is not None and not problem.clips_examples:
        raise PrivacyError(
            f"privacy.examples asks for a gradient of each example, which the problem of {site} does not "
            "give: it is no module on Batches or an ordinary DataLoader, without accumulate and clip_norm; "
            "leave examples out, and the unit is all that a site has"
        )
    return NoisedGradient(site, by_example if examples else whole, budget, secrets)
