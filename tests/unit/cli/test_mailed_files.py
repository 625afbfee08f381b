"""What a folder that somebody mailed may do when its topology file is looked at, and when it is executed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"

TOPOLOGY = """\
apiVersion: flaremesh/v1
name: mailed
server: {host: localhost, org: lab}
admins: [{email: admin@lab.org, org: lab}]
sites: [{name: bonn, org: lab}, {name: aachen, org: lab}]
graph: {kind: complete}
"""

CONSENSUS = (
    "run: {algorithm: consensus, iterations: 2, problem: {path: flaremesh.problems.consensus.Consensus}}\n"
)
OWN_ALGORITHM = (
    "code: {packages: [mine]}\n"
    "run: {algorithm: mine.Halving, iterations: 2, problem: {path: flaremesh.problems.consensus.Consensus}}\n"
)
OWN_FILE = (
    "code: {files: true}\n"
    "run: {algorithm: dgd, stepsize: 0.1, iterations: 2, problem: {file: problem.py, name: Flat}}\n"
)

TRACE = "import pathlib\npathlib.Path(__file__ + '.ran').touch()\n"
ALGORITHM = (
    TRACE
    + """
from dataclasses import dataclass
from flaremesh.algorithms.consensus import Consensus

@dataclass(frozen=True)
class Halving(Consensus): ...
"""
)
PROBLEM = (
    TRACE
    + """
import torch
import parts
class Flat:
    def __init__(self, site): pass
    def initial(self): return torch.zeros(3)
    def loss_and_gradient(self, x): return x.sum(), torch.ones(3)
    def evaluate(self, x): return {}
    def buffers(self): return None
    def state(self, x): return {}
"""
)


@pytest.fixture
def mailed(tmp_path: Path) -> Path:
    folder = tmp_path / "mailed"
    folder.mkdir()
    for name in ("networkx", "typer", "yaml", "cvxpy"):
        (folder / f"{name}.py").write_text(TRACE)
    (folder / "mine.py").write_text(ALGORITHM)
    (folder / "problem.py").write_text(PROBLEM)
    (folder / "parts.py").write_text(TRACE)
    return folder


def flaremesh(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    places = [SOURCE, *([path] if path else [])]
    return subprocess.run(
        [sys.executable, "-m", "flaremesh.cli.main", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        capture_output=True,
        text=True,
        check=False,
    )


def executed(folder: Path) -> set[str]:
    return {path.name.removesuffix(".ran") for path in folder.glob("*.ran")}


@pytest.mark.parametrize("run", [CONSENSUS, OWN_ALGORITHM, OWN_FILE])
@pytest.mark.parametrize("command", ["plan", "provision"])
def test_a_command_that_looks_at_a_mailed_folder_executes_nothing_of_it(
    mailed: Path, command: str, run: str
) -> None:
    (mailed / "mesh.yaml").write_text(TOPOLOGY + run)

    looked = flaremesh(mailed, command, "mesh.yaml")

    assert (looked.returncode, looked.stderr) == (0, "")
    assert executed(mailed) == set()


def test_nothing_of_it_is_executed_either_where_the_user_has_put_the_folder_on_the_path(
    mailed: Path, tmp_path: Path
) -> None:
    for library in ("networkx", "typer", "yaml"):  # needed before anybody knows which file the command reads
        (mailed / f"{library}.py").unlink()
    (mailed / "mesh.yaml").write_text(TOPOLOGY + OWN_ALGORITHM)

    looked = flaremesh(tmp_path, "plan", "mailed/mesh.yaml", path=mailed)

    assert (looked.returncode, executed(mailed)) == (0, set())


def test_a_plan_says_what_it_did_not_look_at_and_which_option_looks(mailed: Path) -> None:
    (mailed / "mesh.yaml").write_text(TOPOLOGY + OWN_ALGORITHM)

    plan = json.loads(flaremesh(mailed, "plan", "mesh.yaml", "--json").stdout)

    assert plan["refusal"] is None
    assert f"mine.Halving lies in {mailed / 'mine.py'}" in plan["unseen"]
    assert "--build-problem imports it, and tells" in plan["unseen"]
    assert plan["message"]["why_unknown"] == "the algorithm was not imported"


def test_with_that_option_a_plan_looks_there_and_names_what_it_executes(mailed: Path) -> None:
    (mailed / "mesh.yaml").write_text(TOPOLOGY + OWN_ALGORITHM)

    looked = flaremesh(mailed, "plan", "mesh.yaml", "--json", "--build-problem")

    plan = json.loads(looked.stdout)
    assert (plan["refusal"], plan["unseen"], plan["message"]["vectors"]) == (None, None, 1)
    assert looked.stderr == named(mailed / "mine.py")
    assert executed(mailed) == {"mine.py"}


def test_a_simulation_names_before_it_begins_each_file_that_it_executes(mailed: Path) -> None:
    (mailed / "mesh.yaml").write_text(TOPOLOGY + OWN_FILE)

    simulated = flaremesh(mailed, "simulate", "mesh.yaml")

    assert simulated.returncode == 0
    assert simulated.stderr == named(mailed / "problem.py") + named(mailed / "parts.py")


def test_a_simulation_names_the_packages_that_it_finds_in_the_current_folder(mailed: Path) -> None:
    (mailed / "mesh.yaml").write_text(TOPOLOGY + OWN_ALGORITHM)

    simulated = flaremesh(mailed, "simulate", "mesh.yaml")

    assert (simulated.returncode, simulated.stderr) == (0, named(mailed / "mine.py"))
    assert executed(mailed) == {"mine.py"}  # libraries come from where they are installed


def test_a_run_names_what_it_will_execute_before_it_looks_for_its_mesh(mailed: Path) -> None:
    (mailed / "mesh.yaml").write_text(TOPOLOGY + OWN_FILE)

    ran = flaremesh(mailed, "run", "mesh.yaml")

    assert ran.returncode != 0
    assert ran.stderr.startswith(named(mailed / "problem.py") + named(mailed / "parts.py"))


def test_the_name_of_a_file_writes_nothing_but_text_to_the_terminal(mailed: Path) -> None:
    (mailed / "problem.py").rename(mailed / "problem\x1b[2J.py")
    (mailed / "mesh.yaml").write_text(TOPOLOGY + OWN_FILE.replace("problem.py", '"problem\\e[2J.py"'))

    simulated = flaremesh(mailed, "simulate", "mesh.yaml")

    assert simulated.returncode == 0
    assert "problem\\x1b[2J.py" in simulated.stderr
    assert "\x1b" not in simulated.stdout + simulated.stderr


def test_a_plan_shows_the_name_of_a_folder_as_it_is_and_obeys_nothing_in_it(
    mailed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    folder = mailed.rename(mailed.with_name("m\x1b[2J[bold]x"))
    (folder / "mesh.yaml").write_text(TOPOLOGY + OWN_ALGORITHM)

    planned = flaremesh(folder, "plan", "mesh.yaml")

    assert "m\\x1b[2J[bold]x/mine.py" in planned.stdout
    assert "\x1b" not in planned.stdout + planned.stderr


def named(file: Path) -> str:
    return f"Executes {file} (SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()})\n"
