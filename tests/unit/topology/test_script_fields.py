"""A topology file names a script as its problem."""

from pathlib import Path

import pytest
from topology_file import with_sections

from flaremesh.topology.load import load
from flaremesh.topology.mistakes import TopologyError
from flaremesh.topology.schema import ScriptReference, Topology

RUN = "run: {{algorithm: local-dgd, stepsize: 1, iterations: 1, problem: {{{}}}}}"


def written(folder: Path, problem: str, code: str = "code: {files: true}") -> Path:
    (folder / "train.py").write_text("")
    file = folder / "topology.yaml"
    file.write_text(with_sections(f"{code}\n{RUN.format(problem)}"))
    return file


def test_its_path_is_absolute_once_the_file_is_read_and_stays_so(tmp_path: Path) -> None:
    topology = load(written(tmp_path, "script: train.py, model: net.Net, args: [--lr, 0.1, --quick]"))
    problem = topology.run.problem
    assert isinstance(problem, ScriptReference)
    assert problem.file == tmp_path.resolve() / "train.py"
    assert problem.args == ("--lr", 0.1, "--quick")
    assert Topology.model_validate_json(topology.model_dump_json()) == topology


@pytest.mark.parametrize(
    ("problem", "field", "message"),
    [
        ("script: train.py", "model", "the field is missing"),
        ("script: other.py, model: net.Net", "script", "does not exist"),
        ("script: train.py, model: net.Net, args: {lr: 1}", "args", "is no list"),
        ("script: train.py, model: Net", "model", "is not allowed; expected: class of the model"),
        ("script: train.py, model: net.Net, name: P", "name", "no such field"),
        ("script: train.py, model: net.Net, launch: python -u", "launch", "torchrun --nproc-per-node N"),
        ("script: train.py, model: net.Net, timeout: 0", "timeout", "greater than 0"),
    ],
)
def test_a_mistake_is_told_at_its_field(tmp_path: Path, problem: str, field: str, message: str) -> None:
    with pytest.raises(TopologyError, match=rf"run\.problem\.{field}.*{message}"):
        load(written(tmp_path, problem))


def test_kits_have_to_allow_it(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"run\.problem\.script.*write code: \{files: true\}"):
        load(written(tmp_path, "script: train.py, model: net.Net", code=""))
