"""A script reaches a site with its model and all that both import from beside it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flaremesh.p2p.charter import Code
from flaremesh.p2p.gate import app as gate
from flaremesh.p2p.gate.code import JobCode
from flaremesh.p2p.gate.request import Refused
from flaremesh.problems.delivery import DeliveredProblem, DeliveryError, deliver, delivered
from flaremesh.problems.protocol import ProblemError, SiteContext
from flaremesh.problems.script import ScriptProblem
from flaremesh.problems.sources import of_problem
from flaremesh.topology.schema import ScriptReference

SITE = SiteContext("bonn", index=0, sites=1, seed=0)
PLAIN = Path(__file__).parents[2] / "scripts/plain"


@pytest.fixture(autouse=True)
def _same_imports() -> Iterator[None]:
    """What a test imports is forgotten after it."""
    modules, path = set(sys.modules), sys.path.copy()
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


def script(file: Path = PLAIN / "train.py", **fields: object) -> ScriptReference:
    return ScriptReference.model_validate({"script": file, "model": "net.Net"} | fields)


def described(app: Path, text: str) -> DeliveredProblem:
    (app / "config").mkdir(parents=True)
    (app / "config/problem.yaml").write_text(text)
    return DeliveredProblem.of(app)


def test_it_travels_with_its_model_and_arguments(tmp_path: Path) -> None:
    said = script(args=["--lr", 0.5], model_args={"classes": 3}, launch="torchrun --nproc-per-node 2")
    deliver(said, tmp_path)
    assert {file.name for file in (tmp_path / "custom").iterdir()} == {"train.py", "net.py"}
    arrived = DeliveredProblem.of(tmp_path)
    assert arrived.said == said.model_copy(update={"script": Path("train.py")})
    problem = arrived.build(SITE)
    assert isinstance(problem, ScriptProblem)
    assert problem.initial().shape == (2 * 64 + 3 * 64 + 3,)
    assert problem.buffers().shape == (2 * 64,)


def test_a_model_that_the_script_does_not_import_travels_too(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text("")
    (tmp_path / "net.py").write_text("import layers\n")
    (tmp_path / "layers.py").write_text("")
    found = of_problem(script(tmp_path / "alone.py"))
    assert sorted(file.name for file in found) == ["alone.py", "layers.py", "net.py"]


def test_sites_of_a_process_have_models_of_their_own_that_are_equal() -> None:
    with delivered(script()) as build:
        first, second = build(SITE), build(SiteContext("kiel", index=1, sites=2, seed=0))
    assert first._module is not second._module


def test_only_a_model_that_is_installed_is_held_to_the_list_of_packages(tmp_path: Path) -> None:
    deliver(script(), tmp_path)
    assert DeliveredProblem.of(tmp_path).path is None
    described(tmp_path / "other", "script: train.py\nmodel: hospital.nets.Net\n")
    assert DeliveredProblem.of(tmp_path / "other").path == "hospital.nets.Net"


@pytest.mark.parametrize(
    "more",
    [
        "launch: python -c evil",
        "launch: torchrun --nproc-per-node 2 --no-python sh",
        "launch: sh",
        "path: a.B",
    ],
)
def test_a_job_starts_no_program_of_its_own(tmp_path: Path, more: str) -> None:
    with pytest.raises(DeliveryError, match="describes no problem"):
        described(tmp_path, f"script: train.py\nmodel: net.Net\n{more}\n")


@pytest.mark.parametrize("name", ["../train.py", "/etc/train.py", "train.sh"])
def test_it_lies_among_the_jobs_code(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeliveryError, match="is no name of a Python file in the job's custom"):
        described(tmp_path, f"script: {name}\nmodel: net.Net\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("script: other.py\nmodel: net.Net\n", "other.py did not arrive with the job"),
        ("script: train.py\nmodel: net.Other\n", "net has no class Other"),
        ("script: train.py\nmodel: nowhere.Net\n", "No module named 'nowhere'"),
        ("script: train.py\nmodel: net.Net\nmodel_args: {depth: 3}\n", "cannot build .* 'depth'"),
        ("script: train.py\nmodel: collections.Counter\n", "collections.Counter is no torch.nn.Module"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    deliver(script(), tmp_path)
    (tmp_path / "config/problem.yaml").write_text(text)
    with pytest.raises(ProblemError, match=f"at bonn: .*{message}|{message}"):
        DeliveredProblem.of(tmp_path).build(SITE)


def checked(app: Path, allowed: Code) -> str:
    """What a site's door makes of the problem."""
    files = {str(file.relative_to(app)): "0" * 64 for file in app.rglob("*.py")}
    return gate._check_problem(app / "config/problem.yaml", JobCode(allowed, files, app / "workspace"))


def test_a_sites_door_takes_it_for_code_of_the_job(tmp_path: Path) -> None:
    deliver(script(), tmp_path)
    with pytest.raises(Refused, match="accepts no code of a job"):
        checked(tmp_path, Code(packages=(), files=False, sha256=()))
    with pytest.raises(Refused, match=r"not that of custom.*sha256"):
        checked(tmp_path, Code(packages=(), files=True, sha256=("1" * 64,)))
    assert checked(tmp_path, Code(packages=(), files=True, sha256=("0" * 64,))) == "train.py"


def test_a_sites_door_refuses_a_model_of_a_package_that_is_not_listed(tmp_path: Path) -> None:
    deliver(script(), tmp_path)
    (tmp_path / "config/problem.yaml").write_text("script: train.py\nmodel: subprocess.Popen\n")
    with pytest.raises(Refused, match=r"does not allow.*subprocess\.Popen"):
        checked(tmp_path, Code(packages=(), files=True, sha256=()))
