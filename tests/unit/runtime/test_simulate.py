"""Whole meshes in one process, and `flaremesh simulate`."""

import json
import pickle
import textwrap
from functools import partial

import pytest
from typer.testing import CliRunner

from flaremesh.algorithms import create
from flaremesh.cli.main import app
from flaremesh.problems.consensus import Consensus
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.load import load
from flaremesh.topology.mesh import build


@pytest.fixture
def topology_file(tmp_path):
    """Writes a topology file of so many sites on a ring."""

    def write(sites, run, code="{}"):
        path = tmp_path / "topology.yaml"
        names = "".join(f"  - {{name: site{i}, org: org}}\n" for i in range(sites))
        path.write_text(
            "apiVersion: flaremesh/v1\n"
            "name: mesh\n"
            "server: {host: localhost, org: org}\n"
            "admins: [{email: admin@example.org, org: org, role: project_admin}]\n"
            f"sites:\n{names}"
            "graph: {kind: ring}\n"
            "weights: metropolis\n"
            f"run: {run}\n"
            f"code: {code}\n"
        )
        return path

    return write


CONSENSUS = "{algorithm: consensus, iterations: 20, problem: {path: flaremesh.problems.consensus.Consensus}}"


def test_256_sites_run_in_one_process(topology_file):
    mesh = build(load(topology_file(256, CONSENSUS)))
    run = Simulation(mesh.schedules, create("consensus"), Consensus, RunOptions(iterations=20))
    run.run()
    distances = [snapshot.consensus_distance for snapshot in run.snapshots]
    assert distances == sorted(distances, reverse=True)
    assert all(history.last_iteration == 20 for history in run.histories.values())


def test_a_simulation_of_a_large_model_keeps_ten_coordinates_of_every_iteration(topology_file):
    mesh = build(load(topology_file(3, CONSENSUS)))
    large = partial(Consensus, dimension=100_000)
    run = Simulation(mesh.schedules, create("consensus"), large, RunOptions(iterations=20))
    run.run()
    assert [len(row["mean"]) for row in run.document()["history"]] == 21 * [10]
    assert run.document()["history"][-1]["mean"] == run.mean[:10].tolist()
    assert len(pickle.dumps(run.snapshots)) < run.mean.nbytes / 10


def test_the_seed_decides_the_run(topology_file):
    mesh = build(load(topology_file(3, CONSENSUS)))

    def result(seed):
        run = Simulation(mesh.schedules, create("consensus"), Consensus, RunOptions(iterations=5), seed)
        run.run()
        return run.mean.tolist()

    assert result(1) == result(1)
    assert result(1) != result(2)


def test_the_command_writes_consensus_distance_mean_and_loss_of_every_iteration(topology_file, tmp_path):
    output = tmp_path / "history.json"
    result = CliRunner().invoke(
        app, ["simulate", str(topology_file(4, CONSENSUS)), "--iterations", "5", "--output", str(output)]
    )
    assert result.exit_code == 0, result.output
    assert "consensus, 4 sites, 5 iterations" in result.output
    document = json.loads(output.read_text())
    assert [row["iteration"] for row in document["history"]] == [0, 1, 2, 3, 4, 5]
    assert all(row["mean"] == pytest.approx(document["history"][0]["mean"]) for row in document["history"])
    assert document["history"][5]["consensus_distance"] < document["history"][0]["consensus_distance"]
    assert document["history"][5]["loss"] is None
    assert set(document["metrics"]) == {"site0", "site1", "site2", "site3"}


def test_the_command_prints_the_history_as_json_and_takes_a_problem_beside_the_file(topology_file, tmp_path):
    (tmp_path / "my_problem.py").write_text(
        textwrap.dedent("""
            from flaremesh.problems.consensus import Consensus

            class Mine(Consensus):
                pass
        """)
    )
    run = "{algorithm: dgd, stepsize: 0.1, iterations: 3, problem: {file: my_problem.py, name: Mine}}"
    result = CliRunner().invoke(app, ["simulate", str(topology_file(3, run, "{files: true}")), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["algorithm"] == "dgd"
    assert document["history"][-1]["loss"] > 0


def test_an_algorithm_of_the_users_own_exchanges_twice_in_an_iteration(topology_file, tmp_path, monkeypatch):
    """Two exchanges of an iteration contract as two iterations of consensus do."""
    (tmp_path / "my_algorithms.py").write_text(
        textwrap.dedent("""
            from dataclasses import dataclass
            from flaremesh.algorithms import Exchange, Weights

            @dataclass(frozen=True)
            class Twice:
                weights = Weights.DOUBLY_STOCHASTIC
                exchanges = (Exchange(), Exchange())

                def init(self, x0, gradient):
                    return (x0,)

                def step(self, state, gradient):
                    mixed = yield state
                    mixed = yield mixed()
                    return mixed()

                def estimate(self, state):
                    return state[0]
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)

    def distances(run):
        arguments = ["simulate", str(topology_file(4, run, "{packages: [my_algorithms]}")), "--json"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return [row["consensus_distance"] for row in json.loads(result.stdout)["history"]]

    mine = CONSENSUS.replace("algorithm: consensus", "algorithm: my_algorithms.Twice")
    assert distances(mine)[:11] == pytest.approx(distances(CONSENSUS)[::2])


def test_the_command_runs_with_another_wire_than_the_files(topology_file):
    arguments = ["simulate", str(topology_file(4, CONSENSUS)), "--json"]

    def final_distance(*options):
        result = CliRunner().invoke(app, [*arguments, *options])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["history"][-1]["consensus_distance"]

    assert final_distance() < 1e-7 < final_distance("--wire", "bfloat16")


def test_the_command_refuses_a_wire_that_there_is_not(topology_file):
    result = CliRunner().invoke(app, ["simulate", str(topology_file(4, CONSENSUS)), "--wire", "int4"])
    assert result.exit_code == 2
    assert "'int4' is not one of 'exact', 'float32', 'bfloat16', 'float16', 'int8', 'top-k'" in " ".join(
        result.stderr.replace("│", " ").split()
    )


def test_the_command_says_what_is_wrong_with_the_problem(topology_file):
    run = "{algorithm: consensus, iterations: 3, problem: {path: absent.module.Problem}}"
    result = CliRunner().invoke(app, ["simulate", str(topology_file(3, run, "{packages: [absent]}"))])
    assert result.exit_code == 1, result.output
    assert "cannot import the problem absent.module.Problem at site0" in result.stderr


HIDING = """
    import time

    from flaremesh.problems.consensus import Consensus

    class Mine(Consensus):
        # its gradient depends on how often it was asked for, from some time on

        def __init__(self, site, tells=False, late=0, clock=False):
            super().__init__(site)
            self.calls, self.tells, self.late, self.clock = 0, tells, late, clock

        def loss_and_gradient(self, x):
            self.calls += 1
            loss, gradient = super().loss_and_gradient(x)
            if self.clock:
                loss = loss + time.perf_counter()
            return loss, gradient * (1 + (self.calls > self.late) / self.calls)

        def snapshot(self):
            return {"calls": self.calls if self.tells else 0}

        def restore(self, snapshot):
            self.calls = snapshot["calls"]
"""


@pytest.fixture
def check_resume(topology_file, tmp_path):
    """Checks a run of twelve iterations on three sites with the problem above."""
    (tmp_path / "hiding.py").write_text(textwrap.dedent(HIDING))

    def check(**args):
        arguments = ", ".join(f"{name}: {str(value).lower()}" for name, value in args.items())
        problem = f"{{file: hiding.py, name: Mine, args: {{{arguments}}}}}"
        run = f"{{algorithm: dgd, stepsize: 0.1, iterations: 12, problem: {problem}}}"
        path = topology_file(3, run, "{files: true}")
        return CliRunner().invoke(app, ["simulate", str(path), "--check-resume"])

    return check


def test_a_problem_that_tells_its_position_resumes_exactly(check_resume):
    result = check_resume(tells=True)
    assert result.exit_code == 0, result.output
    assert "a run of it resumes exactly. Broken off after 6 of 12 iterations, all 3 sites" in result.stdout


@pytest.mark.parametrize(("late", "iteration"), [(0, 7), (11, 12)])
def test_a_problem_that_hides_a_counter_is_told_what_differs_first(late, iteration, check_resume):
    result = check_resume(late=late)
    assert result.exit_code == 1
    assert f"mesh: site0 differs first, after iteration {iteration}: its value is " in result.stdout
    assert "does not resume exactly: the problem has a position that it does not tell" in result.stdout


def test_a_problem_of_which_no_two_runs_are_the_same_is_told_so(check_resume):
    result = check_resume(clock=True)
    assert result.exit_code == 1
    assert "mesh: site0 differs first, after iteration 1: its training loss is " in result.stdout
    assert "no two runs of it are the same" in result.stdout


def test_checking_resumption_writes_no_history(topology_file):
    result = CliRunner().invoke(
        app, ["simulate", str(topology_file(3, CONSENSUS)), "--check-resume", "--json"]
    )
    assert result.exit_code == 2


def test_a_slow_site_is_simulated_at_its_own_pace(topology_file):
    run = (
        "{algorithm: gradient-tracking, stepsize: 0.1, iterations: 20, asynchronous: true, on_loss: fail, "
        "problem: {path: flaremesh.problems.consensus.Consensus}}"
    )
    file = topology_file(4, run)
    result = CliRunner().invoke(app, ["simulate", str(file), "--pace", "site2=10", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["history"][-1]["iteration"] == 20


@pytest.mark.parametrize(
    ("pace", "message"),
    [
        ("site9=10", "there is no site site9"),
        ("site2=fast", "is not SITE=TIMES"),
        ("site2=-1", "is not SITE=TIMES"),
    ],
)
def test_a_pace_that_is_none_is_refused(topology_file, pace, message):
    run = CONSENSUS.replace("algorithm: consensus", "algorithm: r-fast, stepsize: 0.1, on_loss: fail")
    file = topology_file(4, run.replace("iterations: 20", "iterations: 20, asynchronous: true"))
    result = CliRunner().invoke(app, ["simulate", str(file), "--pace", pace])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
