"""Runs that end before their last iteration: all sites agree, after the same one, and for the same reason."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flaremesh.algorithms import create
from flaremesh.cli.main import app
from flaremesh.links import Key, LinkError
from flaremesh.links.inprocess import InProcessLink, inboxes
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.digits import Digits
from flaremesh.runtime.checkpoint import Checkpoints
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.runtime.until import Agreement, UntilError, falls, reason
from flaremesh.topology.neighborhood import hops, neighborhoods
from flaremesh.topology.schema import Until

NAMES = [f"site{i}" for i in range(4)]
RING = np.array([[2, 1, 0, 1], [1, 2, 1, 0], [0, 1, 2, 1], [1, 0, 1, 2]]) / 4
CIRCLE = (np.eye(4) + np.roll(np.eye(4), 1, axis=0)) / 2
TURNS = [(np.eye(4) + np.roll(np.eye(4), shift, axis=0)) / 2 for shift in (1, 2)]
ITERATIONS = 60


def scheduled(*matrices, names=NAMES):
    phases = [neighborhoods(names, matrix) for matrix in matrices]
    return {site: [phase[site] for phase in phases] for site in names}


def digits(until=None, matrices=(RING,), every=5, iterations=ITERATIONS, **arguments):
    algorithm = create("dgd", stepsize=0.1)
    options = RunOptions(iterations, evaluate_every=every, until=until)
    options = replace(options, checkpoint_every=arguments.pop("checkpoint_every", None))
    return Simulation(scheduled(*matrices), algorithm, Digits, options, seed=7, **arguments)


def at_the_worst_site(run, metric, pick=min):
    """By iteration, as an observer of all sites sees it."""
    histories = run.histories.values()
    return {
        records[0].iteration: pick(record.metrics[metric] for record in records)
        for records in zip(*(history.evaluations for history in histories), strict=True)
    }


def models(run):
    return [site.problem.state(site.estimate) for site in run.sites.values()]


@pytest.mark.parametrize("matrices", [(RING,), (CIRCLE,), TURNS], ids=["ring", "circle", "turns"])
def test_all_sites_end_after_the_evaluation_in_which_the_last_one_has_reached_the_target(matrices):
    whole = digits(matrices=matrices)
    whole.run()
    accuracy = at_the_worst_site(whole, "accuracy")
    target = sorted(accuracy.values())[-4]
    first = next(iteration for iteration, least in accuracy.items() if least >= target)
    assert 0 < first < ITERATIONS

    run = digits({"accuracy": target}, matrices)
    run.run()
    assert {history.last_iteration for history in run.histories.values()} == {first}
    assert run.ended == f"reached accuracy {target:g} at all sites after iteration {first}"
    same = digits(matrices=matrices, iterations=first)
    same.run()
    for ended, expected in zip(models(run), models(same), strict=True):
        assert all(torch.equal(ended[name], expected[name]) for name in expected)


def test_a_loss_is_reached_from_above():
    whole = digits()
    whole.run()
    loss = at_the_worst_site(whole, "loss", max)
    run = digits({"loss": loss[30]})
    run.run()
    assert run.snapshots[-1].iteration == next(i for i, worst in loss.items() if worst <= loss[30])
    assert [falls(metric) for metric in ("validation_loss", "Test error", "accuracy")] == [True, True, False]


def test_a_run_that_reaches_nothing_does_all_iterations_and_says_nothing():
    run = digits({"accuracy": 1.0, "loss": 0.0})
    run.run()
    assert run.snapshots[-1].iteration == ITERATIONS
    assert (run.ending, run.ended) == (None, None)


def agreeing(iterations, until, **arguments):
    """Sites that agree on the mean of their values: the least of these rises, to the last bit."""
    every = arguments.pop("checkpoint_every", None)
    options = RunOptions(iterations, evaluate_every=4, until=until, checkpoint_every=every)
    return Simulation(scheduled(RING), create("consensus"), Consensus, options, **arguments)


def test_what_is_reached_after_the_last_iteration_counts():
    whole = agreeing(12, None)
    whole.run()
    least = at_the_worst_site(whole, "value")
    assert least[8] < least[12]
    run = agreeing(12, {"value": least[12]})
    run.run()
    assert (run.ending, run.snapshots[-1].iteration) == ("target", 12)


def test_a_plateau_ends_a_run_that_no_longer_becomes_better_at_the_worst_site():
    until = {"plateau": {"metric": "value", "iterations": 12}}
    run = agreeing(200, until)
    run.run()
    least = at_the_worst_site(run, "value")
    best = max(least, key=least.__getitem__)
    assert 4 <= best < 200 - 12
    assert run.snapshots[-1].iteration == best + 12
    assert run.ended == f"no better value at the worst site in 12 iterations after iteration {best + 12}"


def test_a_run_that_is_resumed_while_it_stands_still_ends_where_the_undisturbed_one_does(tmp_path):
    until = {"plateau": {"metric": "value", "iterations": 20}}

    straight = agreeing(200, until)
    straight.run()
    end = straight.snapshots[-1].iteration
    places = {site: Checkpoints(tmp_path / site, site) for site in NAMES}
    broken = agreeing(200, until, checkpoints=places, checkpoint_every=end - 6)
    steps = broken.steps()
    for _ in range(end - 6):
        next(steps)
    for site in broken.sites.values():
        site.checkpointing.wait()
    resumed = agreeing(200, until, resume={site: places[site].read(end - 6) for site in NAMES})
    resumed.run()
    assert (resumed.snapshots[-1].iteration, resumed.ended) == (end, straight.ended)
    for site, expected in straight.sites.items():
        assert torch.equal(resumed.sites[site].best["value"], expected.best["value"])


def test_all_sites_keep_the_models_of_the_evaluation_that_was_best_at_the_worst_site():
    run = digits({"accuracy": 1.0})
    run.run()
    accuracy = at_the_worst_site(run, "accuracy")
    best = max(accuracy, key=accuracy.__getitem__)
    assert 0 < best < ITERATIONS
    then = digits(iterations=best)
    then.run()
    for site, expected in zip(run.sites.values(), models(then), strict=True):
        assert all(torch.equal(site.best[name], expected[name]) for name in expected)
        assert any(not torch.equal(site.best[name], now) for name, now in models(run)[0].items())


def test_a_metric_that_the_problem_does_not_evaluate_is_refused_by_name():
    with pytest.raises(
        UntilError, match="asks for acuracy, and the problem of site0 evaluates loss, accuracy"
    ):
        digits({"acuracy": 0.9})


def test_sites_that_cannot_all_hear_of_each_other_are_refused():
    one_way = np.array([[1.0, 0.0], [0.5, 0.5]])
    schedules = scheduled(one_way, names=["bonn", "ulm"])
    assert hops(schedules) is None
    options = RunOptions(5, until={"value": 1.0})
    with pytest.raises(UntilError, match="bonn cannot agree with all other sites"):
        Simulation(schedules, create("consensus"), Consensus, options)


def test_hops_are_those_of_the_farthest_two_sites():
    assert hops(scheduled(RING)) == 2
    assert hops(scheduled(CIRCLE)) == 3
    assert hops(scheduled(*TURNS)) == 2
    assert hops(scheduled(np.ones((1, 1)), names=["bonn"])) == 0


@pytest.mark.parametrize("payload", [b"", b"12345678" * 2, struct.pack("<d", float("nan"))])
def test_what_a_neighbour_sends_is_checked(payload):
    schedules = scheduled(np.ones((2, 2)) / 2, names=["bonn", "ulm"])
    boxes = inboxes(schedules)
    link = InProcessLink("bonn", boxes)
    agreement = Agreement(Until.model_validate({"accuracy": 0.5}), link, schedules["bonn"], 1, 1.0)
    agreement.evaluated({"accuracy": 0.6})
    turns = agreement.reach(5)
    next(turns)
    boxes["bonn"].put(Key(5, 1 << 15, "ulm"), payload)
    with pytest.raises(LinkError, match="ulm sent"):
        next(turns)


def test_a_condition_that_the_run_does_not_have_is_no_reason():
    """The words of sites, which may say anything."""
    until = Until.model_validate({"accuracy": 0.9})
    assert reason(until, "plateau", 5) is None
    assert reason(until, "target", 5) == "reached accuracy 0.9 at all sites after iteration 5"


def test_plan_and_simulate_say_what_ends_the_run(tmp_path):
    file = tmp_path / "mesh.yaml"
    file.write_text(
        "apiVersion: flaremesh/v1\nname: mesh\nserver: {host: localhost, org: org}\n"
        "admins: [{email: admin@example.org, org: org, role: project_admin}]\n"
        "sites: [{name: bonn, org: org}, {name: ulm, org: org}]\ngraph: {kind: ring}\n"
        "run: {algorithm: consensus, iterations: 50, until: {plateau: {metric: value, iterations: 10}},\n"
        "  problem: {path: flaremesh.problems.consensus.Consensus}}\n"
    )
    plan = CliRunner().invoke(app, ["plan", str(file)], env={"COLUMNS": "200"})
    assert "once the sites agree: no better value at the worst site in 10 iterations" in plan.output
    simulated = CliRunner().invoke(app, ["simulate", str(file)])
    assert simulated.exit_code == 0, simulated.output
    assert "no better value at the worst site in 10 iterations after iteration" in simulated.output
    resumed = CliRunner().invoke(app, ["simulate", str(file), "--check-resume"])
    assert "resumes exactly" in resumed.output, resumed.output
