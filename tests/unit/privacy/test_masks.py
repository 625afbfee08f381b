"""Masked start: what a site first sends of a gradient, and what it hides."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from flaremesh.algorithms import algorithm_class, create, names
from flaremesh.algorithms.gradient_tracking import GradientTracking
from flaremesh.privacy.masks import Masks
from flaremesh.privacy.pairs import repeatable
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.checked_algorithm import AlgorithmError, CheckedAlgorithm
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.neighborhood import Neighborhood

D = 5
RING = [(f"site{i}", f"site{(i + step) % 8}") for i in range(8) for step in (1, -1)]
STAR = [edge for i in range(1, 5) for edge in (("site0", f"site{i}"), (f"site{i}", "site0"))]
ONE_WAY = [(f"site{i}", f"site{(i + step) % 8}") for i in range(8) for step in (1, 3)]


def schedules(edges):
    """Neighbourhoods with equal weights on edges (from, to)."""
    share = 1 / (1 + max(sum(source == site for source, _ in edges) for site, _ in edges))
    return {
        site: [
            Neighborhood(
                site,
                1 - share * sum(target == site for _, target in edges),
                {source: share for source, target in edges if target == site},
                tuple(target for source, target in edges if source == site),
            )
        ]
        for site in sorted({site for edge in edges for site in edge})
    }


class Quadratic:
    """f_i(x) = ½‖A_i (x − b_i)‖² with A_i, b_i of the site's own."""

    def __init__(self, site, dtype=torch.float64):
        numbers = torch.Generator().manual_seed(site.index)
        self.a = 1 + torch.rand(D, generator=numbers, dtype=torch.float64)
        self.b = torch.randn(D, generator=numbers, dtype=torch.float64)
        self.dtype = dtype

    def initial(self):
        return torch.zeros(D, dtype=self.dtype)

    def loss_and_gradient(self, x):
        away = x - self.b.to(x)
        return 0.5 * (self.a.to(x) * away).square().sum(), self.a.to(x).square() * away

    def evaluate(self, x):
        return {}

    def buffers(self):
        return None

    def state(self, x):
        return {"x": x}


def problems(run):
    dtype = next(iter(run.sites.values())).estimate.dtype
    sites = [SiteContext(name, index, len(run.sites), 0) for index, name in enumerate(run.sites)]
    return [Quadratic(site, dtype) for site in sites]


def simulation(edges, algorithm, iterations, dtype=torch.float64, problem=Quadratic, **privacy):
    options = RunOptions(iterations, privacy=privacy)
    return Simulation(schedules(edges), algorithm, partial(problem, dtype=dtype), options, seed=3)


def first_messages(run):
    """What each site sends in the first iteration of gradient tracking in the place of its gradient."""
    return {name: site.state.y for name, site in run.sites.items()}


def gradients(run):
    return {
        name: problem.loss_and_gradient(problem.initial())[1]
        for name, problem in zip(run.sites, problems(run), strict=True)
    }


def secrets_of(edges):
    return {site: repeatable(3, schedule) for site, schedule in schedules(edges).items()}


@pytest.mark.parametrize("edges", [RING, STAR, ONE_WAY], ids=["ring", "star", "one way"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_masks_of_all_sites_sum_to_zero_and_so_hide_nothing_of_the_mean(edges, dtype):
    like = torch.zeros(1000, dtype=dtype)
    drawn = [Masks(site, shared, 1.0, "y").sum(like) for site, shared in secrets_of(edges).items()]
    assert all(mask.dtype == dtype and mask.std() > 0.5 for mask in drawn)
    assert sum(mask.double() for mask in drawn).count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_mean_tracker_is_the_mean_of_the_gradients_to_the_last_bit(dtype):
    run = simulation(RING, create("gradient-tracking", stepsize=0.1), 1, dtype)
    states = [site.state for site in run.sites.values()]
    for entry in range(D):
        assert math.fsum(float(s.y[entry]) for s in states) == math.fsum(float(s.g[entry]) for s in states)
    far = max(float((s.g - own).abs().max()) for s, own in zip(states, gradients(run).values(), strict=True))
    grid = Masks("site0", {}, 1.0, "y").grid(dtype)
    assert far <= grid / 2  # to which gradients are rounded, so that no last digits show


MORE = {"momentum-tracking": {"beta": 0.5}, "gtadam": {"beta2": 0.9, "epsilon": 1.0}}
MASKED = [name for name in names() if hasattr(algorithm_class(name), "masked")]
ITERATIONS = 1400


def errors(algorithm, masks):
    """How far all sites of the ring are from the minimiser after each iteration, with masks (8, d) at first.

    Sites are rows, since no algorithm does more with a vector than with each of its entries.
    """
    sites = [Quadratic(SiteContext(f"site{i}", i, 8, 0)) for i in range(8)]
    a, b = torch.stack([site.a for site in sites]).square(), torch.stack([site.b for site in sites])
    solution = (a * b).sum(dim=0) / a.sum(dim=0)
    w = torch.zeros(8, 8, dtype=torch.float64)
    for site, (hood,) in schedules(RING).items():
        for other, weight in {site: hood.self_weight, **hood.in_weights}.items():
            w[int(site[4:]), int(other[4:])] = weight

    def gradient(x):
        return a * (x - b)

    state = algorithm.init(torch.zeros(8, D, dtype=torch.float64), gradient)
    field = algorithm.masked.field
    state = state._replace(**{field: getattr(state, field) + masks})
    found = []
    for _ in range(ITERATIONS):
        step = algorithm.step(state, gradient)
        message = next(step)
        try:
            while True:
                mixture = tuple(w @ vectors for vectors in message)
                message = step.send(lambda mixture=mixture: mixture)
        except StopIteration as end:
            state = end.value
        found.append(float((algorithm.estimate(state) - solution).norm()))
    return found


def masks_of_ring(scale):
    like = torch.zeros(D, dtype=torch.float64)
    return torch.stack(
        [Masks(site, shared, scale, "y").sum(like) for site, shared in secrets_of(RING).items()]
    )


@pytest.mark.parametrize("name", [name for name in MASKED if name != "push-diging"])
def test_masks_cost_no_iterations_and_no_accuracy(name):
    """Push-DIGing's weights are numbers of a site, and its trackers are those of the others."""
    algorithm = create(name, stepsize=0.04 if name == "k-gt" else 0.02, **MORE.get(name, {}))
    factor = algorithm.masked.factor
    scale = getattr(algorithm, factor) if factor else 1.0
    plain, hidden = errors(algorithm, torch.zeros(8, D)), errors(algorithm, masks_of_ring(scale))
    needed, with_masks = (sum(error > 1e-8 for error in found) for found in (plain, hidden))
    assert hidden[0] != plain[0] or hidden[1] != plain[1]
    assert needed < ITERATIONS
    assert with_masks <= 1.01 * needed
    assert hidden[-1] < max(1e-12, 1.2 * plain[-1])  # extra's own rounding is more


class Softmax(Quadratic):
    """Softmax regression of one private example (4,) of a private class among three; d = 3 (4 + 1)."""

    def __init__(self, site, dtype):
        super().__init__(site, dtype)
        numbers = torch.Generator().manual_seed(100 + site.index)
        self.example = torch.rand(4, generator=numbers, dtype=torch.float64).to(dtype)
        self.label = site.index % 3

    def initial(self):
        return torch.zeros(15, dtype=self.dtype)

    def loss_and_gradient(self, x):
        x = x.clone().requires_grad_()
        logits = x[:12].view(3, 4) @ self.example + x[12:]
        loss = nn.functional.cross_entropy(logits[None], torch.tensor([self.label]))
        (gradient,) = torch.autograd.grad(loss, x)
        return loss.detach(), gradient


def read_off(gradient):
    """Label and example of a softmax regression's gradient: only the label's bias descends upwards."""
    label = int(gradient[12:].argmin())
    return label, gradient[4 * label : 4 * label + 4] / gradient[12 + label]


@pytest.mark.parametrize("masked_start", [False, True])
def test_the_example_is_read_off_a_first_message_unless_it_is_masked(masked_start):
    algorithm = create("gradient-tracking", stepsize=0.1)
    run = simulation(RING, algorithm, 1, problem=Softmax, masked_start=masked_start)
    right, distances = 0, []
    for index, message in enumerate(first_messages(run).values()):
        private = Softmax(SiteContext("", index, 8, 0), torch.float64)
        label, example = read_off(message)
        right += label == private.label
        distances.append(float((example - private.example).norm() / private.example.norm()))
    if masked_start:
        assert right < 8
        assert min(distances) > 0.5
    else:
        assert right == 8
        assert max(distances) < 1e-12


def test_a_first_message_has_little_of_the_gradients_direction():
    """With entries of gradients as great as those of masks."""
    like = torch.zeros(10_000, dtype=torch.float64)
    gradient = torch.empty_like(like).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    state = create("gradient-tracking", stepsize=0.1).init(like, lambda x: gradient)
    message = Masks("site0", secrets_of(RING)["site0"], 1.0, "y").hide(state).y
    assert torch.cosine_similarity(message, gradient, dim=0) == pytest.approx(3**-0.5, abs=0.03)


def test_whoever_knows_all_the_secrets_of_a_site_sees_its_gradient():
    """A leaf's only neighbour does, and so do all neighbours of a site that put together what they know."""
    run = simulation(STAR, create("gradient-tracking", stepsize=0.1), 1)
    secrets, messages, private = secrets_of(STAR), first_messages(run), gradients(run)
    like = messages["site0"]
    for leaf in ("site1", "site4"):
        mask = Masks(leaf, {"site0": secrets["site0"][leaf]}, 1.0, "y").sum(like)
        torch.testing.assert_close(messages[leaf] - mask, private[leaf], rtol=0, atol=1e-14)
    leaves = {leaf: secrets[leaf]["site0"] for leaf in secrets if leaf != "site0"}
    mask = Masks("site0", leaves, 1.0, "y").sum(like)
    torch.testing.assert_close(messages["site0"] - mask, private["site0"], rtol=0, atol=1e-14)
    some = Masks("site0", {leaf: leaves[leaf] for leaf in list(leaves)[:-1]}, 1.0, "y").sum(like)
    assert float((messages["site0"] - some - private["site0"]).norm()) > 0.1


@pytest.mark.parametrize("edges", [RING, ONE_WAY], ids=["ring", "one way"])
def test_first_messages_are_masked_on_directed_graphs_as_well(edges):
    run = simulation(edges, create("push-diging", stepsize=0.05), 1)
    private, messages = gradients(run), first_messages(run)
    assert all(float((messages[site] - private[site]).norm()) > 0.1 for site in private)
    total = sum(messages.values()) - sum(site.state.g for site in run.sites.values())
    assert float(total.norm()) < 1e-14


def test_a_gradient_shows_no_digits_below_the_masks_last_one():
    g = torch.full((3,), 1e-9, dtype=torch.float32)
    masks = Masks("site0", secrets_of(RING)["site0"], 1.0, "y")
    hidden = masks.hide(create("gradient-tracking", stepsize=0.1).init(torch.zeros(3), lambda x: g))
    assert torch.equal(hidden.y, masks.sum(g))
    assert hidden.g.count_nonzero() == 0  # so that the next difference of gradients makes up for it


class Misnamed(GradientTracking):
    masked = GradientTracking.masked._replace(field="tracker")


def test_an_algorithm_that_misnames_what_is_masked_is_told_so():
    masks = Masks("bonn", {"ulm": b"secret"}, 1.0, "tracker")
    checked = CheckedAlgorithm(Misnamed(0.1), D, torch.zeros_like, masks)
    with pytest.raises(AlgorithmError, match="Misnamed says that tracker may be masked"):
        checked.start(torch.zeros(D))
