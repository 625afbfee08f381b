"""Sites that go on without one that has left, and with it again: states are repaired, as the sums need it."""

from dataclasses import fields

import networkx as nx
import pytest
import torch
from reference_cases import LeastSquares, gradients_of

from flaremesh.algorithms import FixedPoint, Weights, algorithm_class, names
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.checked_algorithm import AlgorithmError
from flaremesh.runtime.checkpoint import Checkpoints
from flaremesh.runtime.joining import Joining
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.neighborhood import neighborhoods
from flaremesh.topology.schema import Wire
from flaremesh.topology.survivors import survivors
from flaremesh.topology.weights import mixing_matrix

SITES = tuple(f"site{i}" for i in range(6))
LOST = "site5"
LEFT = SITES[:5]
AT = 300
"""So late that the sites have settled where all six would have it."""

UNDIRECTED = nx.DiGraph([edge for i in range(6) for edge in ((i, (i + 1) % 6), ((i + 1) % 6, i))])
DIRECTED = nx.DiGraph([(i, (i + 1) % 6) for i in range(6)] + [(4, 0), (2, 0), (0, 3)])
GRAPHS = {
    Weights.SYMMETRIC: (UNDIRECTED, "metropolis"),
    Weights.DOUBLY_STOCHASTIC: (UNDIRECTED, "metropolis"),
    Weights.COLUMN_STOCHASTIC: (DIRECTED, "push-sum"),
}
WIRES = ["exact", "int8", {"encoding": "top-k", "fraction": 0.2}]
EXACT = [name for name in names() if algorithm_class(name).fixed_point is not FixedPoint.NEIGHBOURHOOD]
OPTIONS = {
    "gtadam": {"stepsize": 0.01, "beta2": 0.99},
    "momentum-tracking": {"stepsize": 0.005, "beta": 0.5},
}


def created(name, cls=None):
    cls = cls or algorithm_class(name)
    known = {field.name for field in fields(cls)}
    options = OPTIONS.get(name, {"stepsize": 0.01})
    return cls(**{option: value for option, value in options.items() if option in known})


def scattered(site):
    return LeastSquares(site, scattered=True)


def problems(sites=LEFT):
    return [scattered(SiteContext(site, index=i, sites=6, seed=0)) for i, site in enumerate(sites)]


def simulation(algorithm, mesh, iterations, wire, **arguments):
    hoods = neighborhoods(mesh[0], mesh[1])
    schedules = {site: [hoods[site]] for site in mesh[0]}
    every = arguments.pop("every", None)
    options = RunOptions(iterations, wire=Wire.of(wire), checkpoint_every=every)
    return Simulation(schedules, algorithm, scattered, options, began=SITES, **arguments)


def whole(algorithm):
    return SITES, mixing_matrix(*GRAPHS[type(algorithm).weights])


def left(algorithm):
    mesh = survivors(SITES, [whole(algorithm)[1]], GRAPHS[type(algorithm).weights][1], LEFT)
    return mesh.sites, mesh.matrices[0]


def continued(folder, algorithm, iterations, wire="exact", at=AT, **arguments):
    """What is left of a run of all sites that lost one after some iterations."""
    places = {site: Checkpoints(folder / site, site) for site in SITES}
    first = simulation(algorithm, whole(algorithm), at, wire, every=at, checkpoints=places)
    first.run()
    for run in first.sites.values():
        run.checkpointing.wait()
    resume = {site: Checkpoints(folder / site, site).read(at) for site in LEFT}
    return simulation(algorithm, left(algorithm), iterations, wire, resume=resume, **arguments)


def joined(folder, algorithm, iterations, wire="exact", at=AT, back_at=2 * AT):
    """A run of all sites that lost one after some iterations, which joins again after some more."""
    places = {site: Checkpoints(folder / site, site) for site in SITES}
    without = continued(folder, algorithm, back_at, wire, at, every=back_at, checkpoints=places)
    without.run()
    for run in without.sites.values():
        run.checkpointing.wait()
    resume = {site: Checkpoints(folder / site, site).read(back_at) for site in LEFT}
    return simulation(
        algorithm,
        whole(algorithm),
        iterations,
        wire,
        resume=resume,
        checkpoints={site: Checkpoints(folder / site, site) for site in SITES},
        joining=Joining(back_at, (LOST,)),
    )


def estimates(run):
    return torch.stack([site.estimate for site in run.sites.values()])


def invariant(algorithm, run, sites=LEFT):
    states = [site.state for site in run.sites.values()]
    stacked = type(states[0])(*map(torch.stack, zip(*states, strict=True)))
    return algorithm.invariant(stacked, gradients_of(problems(sites), estimates(run)))


def solution(algorithm, sites=LEFT):
    """Where these sites would come to without ever having known another."""
    if algorithm.fixed_point is FixedPoint.MEAN:
        return torch.stack([problem.initial() for problem in problems(sites)]).mean(dim=0)
    zero = torch.zeros(5, dtype=torch.float64)
    at_zero = sum(problem.loss_and_gradient(zero)[1] for problem in problems(sites))
    ones = torch.eye(5).double()
    columns = [sum(p.loss_and_gradient(e)[1] for p in problems(sites)) - at_zero for e in ones]
    return torch.linalg.solve(torch.stack(columns, dim=1), -at_zero)


@pytest.mark.parametrize("wire", WIRES, ids=str)
@pytest.mark.parametrize("name", names())
def test_the_invariant_holds_for_those_that_are_left_as_if_they_began_without_the_other(name, wire, tmp_path):
    algorithm = created(name)
    alone = invariant(algorithm, simulation(algorithm, left(algorithm), 1, wire))
    run = continued(tmp_path, algorithm, 60, wire, at=30)
    torch.testing.assert_close(invariant(algorithm, run), alone, rtol=0, atol=1e-12)
    for _ in run.steps():
        torch.testing.assert_close(invariant(algorithm, run), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_those_that_are_left_come_to_the_solution_of_their_own_sum(name, tmp_path):
    algorithm = created(name)
    run = continued(tmp_path, algorithm, 5 * AT)
    run.run()
    assert distance(run, algorithm) < 1e-9


@pytest.mark.parametrize("name", [name for name in EXACT if name != "robust-push-sum"])  # its sums tell
def test_without_the_repair_they_would_come_elsewhere(name, tmp_path):
    cls = algorithm_class(name)
    unrepaired = type(cls.__name__, (cls,), {"repair": lambda self, state, x0, gradient: state})
    algorithm = created(name, unrepaired)
    run = continued(tmp_path, algorithm, 4 * AT)
    run.run()
    assert distance(run, algorithm) > 0.1


def distance(run, algorithm, sites=LEFT):
    return float((estimates(run) - solution(algorithm, sites)).norm(dim=1).max())


@pytest.mark.parametrize("wire", WIRES, ids=str)
@pytest.mark.parametrize("name", names())
def test_the_invariant_holds_for_all_once_the_other_has_joined_again(name, wire, tmp_path):
    algorithm = created(name)
    never_apart = invariant(algorithm, simulation(algorithm, whole(algorithm), 1, wire), SITES)
    run = joined(tmp_path, algorithm, 90, wire, at=30, back_at=60)
    torch.testing.assert_close(invariant(algorithm, run, SITES), never_apart, rtol=0, atol=1e-12)
    for _ in run.steps():
        torch.testing.assert_close(invariant(algorithm, run, SITES), never_apart, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_with_who_joins_again_they_come_to_the_solution_of_the_whole_sum(name, tmp_path):
    algorithm = created(name)
    run = joined(tmp_path, algorithm, 6 * AT)
    run.run()
    assert distance(run, algorithm, SITES) < 1e-9


def test_who_joins_begins_at_the_mean_of_its_neighbours(tmp_path):
    algorithm = created("gradient-tracking")
    run = joined(tmp_path, algorithm, 3 * AT)
    beside = torch.stack([run.sites[site].estimate for site in ("site0", "site4")])
    torch.testing.assert_close(run.sites[LOST].estimate, beside.mean(dim=0), rtol=0, atol=1e-12)
    assert run.sites[LOST].start == 2 * AT


def test_who_joins_has_a_checkpoint_at_once_and_none_of_what_it_did_before(tmp_path):
    algorithm = created("gradient-tracking")
    joined(tmp_path, algorithm, 90, at=30, back_at=60)
    places = {site: Checkpoints(tmp_path / site, site) for site in SITES}
    assert [places[site].iterations() for site in SITES] == [[30, 60]] * 5 + [[60]]
    again = simulation(
        algorithm, whole(algorithm), 90, "exact", resume={site: places[site].read(60) for site in SITES}
    )
    zero = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(invariant(algorithm, again, SITES), (zero,), rtol=0, atol=1e-12)


@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_the_invariant_holds_when_a_site_joins_where_it_has_taken_part_and_when_that_is_lost(wire, tmp_path):
    algorithm = created("gradient-tracking")
    zero = torch.zeros(5, dtype=torch.float64)

    def places():
        return {site: Checkpoints(tmp_path / site, site) for site in SITES}

    first = simulation(algorithm, whole(algorithm), 30, wire, every=30, checkpoints=places())
    first.run()
    for run in first.sites.values():
        run.checkpointing.wait()
    for resumed, joins in ((LEFT, (LOST,)), (SITES, ())):
        again = simulation(
            algorithm,
            whole(algorithm),
            60,
            wire,
            resume={site: places()[site].read(30) for site in resumed},
            checkpoints=places(),
            joining=Joining(30, joins),
        )
        torch.testing.assert_close(invariant(algorithm, again, SITES), (zero,), rtol=0, atol=1e-12)
        *_, _ = again.steps()
        torch.testing.assert_close(invariant(algorithm, again, SITES), (zero,), rtol=0, atol=1e-12)


def test_who_joins_where_the_run_is_over_has_its_result(tmp_path):
    algorithm = created("consensus")
    run = joined(tmp_path, algorithm, 60, at=30, back_at=60)
    assert float((run.sites[LOST].estimate - solution(algorithm)).norm()) < 0.1


def test_public_copies_start_anew_so_that_both_ends_of_each_edge_have_the_same(tmp_path):
    algorithm = created("gradient-tracking")
    run = continued(tmp_path, algorithm, 4 * AT, "int8")
    run.run()
    assert distance(run, algorithm) < 1e-9


def test_an_algorithm_that_does_not_say_how_it_is_repaired_does_not_go_on(tmp_path):
    cls = algorithm_class("dgd")
    silent = type("Silent", (cls,), {"repair": None})
    with pytest.raises(AlgorithmError, match="Silent has no method repair"):
        continued(tmp_path, created("dgd", silent), 40, at=30)


def checkpointed(tmp_path, algorithm, mesh):
    """The checkpoints of a run of 20 iterations, by site."""
    places = {site: Checkpoints(tmp_path / site, site) for site in SITES}
    first = simulation(algorithm, mesh, 20, "exact", every=10, checkpoints=places)
    first.run()
    for run in first.sites.values():
        run.checkpointing.wait()
    return places


def test_later_checkpoints_of_more_sites_are_given_up(tmp_path):
    algorithm = created("gradient-tracking")
    places = checkpointed(tmp_path, algorithm, whole(algorithm))
    assert places["site0"].iterations() == [10, 20]
    resume = {site: places[site].read(10) for site in LEFT}
    simulation(algorithm, left(algorithm), 20, "exact", resume=resume, checkpoints=places)
    assert [places[site].iterations() for site in LEFT] == [[10]] * 5


def test_a_run_that_is_over_keeps_its_result(tmp_path):
    algorithm = created("consensus")
    run = continued(tmp_path, algorithm, 30, at=30)
    run.run()
    everyone = torch.stack([scattered(SiteContext(s, i, 6, 0)).initial() for i, s in enumerate(SITES)])
    assert float((estimates(run) - everyone.mean(dim=0)).norm(dim=1).max()) < 0.05
