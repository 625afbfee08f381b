"""Whatever a command is handed: an answer or one sentence, never a traceback, and a result is never lost."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from flaremesh.cli import schema as schema_command
from flaremesh.cli.main import app
from flaremesh.provision.kits import provision
from flaremesh.topology.load import load

RING = Path(__file__).parents[3] / "provision/ring3-consensus.yaml"

OF_A_TOPOLOGY = {
    "plan": (),
    "privacy": (),
    "algorithms": (),
    "simulate": (),
    "sweep": ("--vary", "run.iterations=2"),
    "provision": (),
    "up": (),
    "run": (),
    "status": (),
    "top": ("--once",),
    "monitor": (),
    "doctor": (),
    "tune": ("--measured", "measured.json"),
    "bundle": ("bonn",),
    "down": (),
}
"""The commands that take a topology file, and what else they need."""

OF_A_MESH = [
    command
    for command in OF_A_TOPOLOGY
    if command not in ("privacy", "algorithms", "simulate", "sweep", "tune")
]


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def refused(*arguments: object) -> str:
    """What is said by a command that must not succeed."""
    result = call(*arguments)
    assert result.exit_code not in (0, None)
    assert result.stderr.strip()
    return str(result.stderr)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ring of three in ``mesh.yaml`` of the current folder."""
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load(RING.read_text())
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(document))
    return tmp_path


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mesh")
    provision(load(RING), folder)
    return folder


NO_TOPOLOGY = {
    "missing": None,
    "empty": b"",
    "binary": bytes(range(256)),
    "not UTF-8": "name: Köln".encode("latin-1"),
    "a list": b"- 1",
    "a text": b"hello",
    "no YAML": b"a: [",
    "another mesh": b"apiVersion: other/v1\nname: x",
}


@pytest.mark.parametrize("content", NO_TOPOLOGY.values(), ids=NO_TOPOLOGY)
@pytest.mark.parametrize("command", OF_A_TOPOLOGY)
def test_what_is_no_topology_file_is_refused(here: Path, command: str, content: bytes | None) -> None:
    if content is not None:
        Path("bad.yaml").write_bytes(content)
    assert "bad.yaml" in refused(command, "bad.yaml", *OF_A_TOPOLOGY[command])


@pytest.mark.parametrize("command", OF_A_TOPOLOGY)
@pytest.mark.parametrize("path", [".", "mesh.yaml/x", "/dev/null", "x" * 300, ""])
def test_a_path_that_leads_to_no_topology_file_is_refused(here: Path, command: str, path: str) -> None:
    refused(command, path, *OF_A_TOPOLOGY[command])


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff", b'{"mesh": "ring", "version": 2}'])
@pytest.mark.parametrize("command", [["plan", "--build-problem"], ["tune"]])
def test_what_is_no_measurement_is_refused(here: Path, command: list[str], content: bytes | None) -> None:
    if content is not None:
        Path("measured.json").write_bytes(content)
    said = refused(*command, "mesh.yaml", "--measured", "measured.json")
    assert "measured.json" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("output", ["mesh.yaml", "mesh.yaml/x/y", "x" * 300])
@pytest.mark.parametrize("command", OF_A_MESH)
def test_a_mesh_folder_that_can_be_none_is_refused(here: Path, command: str, output: str) -> None:
    before = sorted(here.rglob("*"))
    said = refused(command, "mesh.yaml", *OF_A_TOPOLOGY[command], "--output", output)
    assert output.partition("/")[0] in said
    assert len(said.splitlines()) == 1
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", ["provision", "up", "run", "bundle", "monitor"])
def test_a_mesh_folder_that_cannot_be_written_is_refused_before_the_work(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    access = os.access
    # whoever runs the tests may be root, whom no mode of a folder stops
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not mode & os.W_OK)
    assert "can be written into" in refused(command, "mesh.yaml", *OF_A_TOPOLOGY[command], "--output", "a/b")
    assert not Path("a").exists()


@pytest.mark.parametrize("output", [".", "mesh.yaml/x", "/proc/nowhere", "x" * 300])
@pytest.mark.parametrize("command", [["simulate", "mesh.yaml"], ["schema"]])
def test_an_output_file_that_cannot_be_written_is_refused(
    here: Path, command: list[str], output: str
) -> None:
    assert len(refused(*command, "--output", output).splitlines()) == 1


def test_a_simulation_is_not_begun_where_its_history_cannot_be_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flaremesh.runtime.simulate.Simulation.run", lambda self: pytest.fail("it ran"))
    refused("simulate", "mesh.yaml", "--output", "mesh.yaml/x")


@pytest.mark.parametrize("command", [["simulate", "mesh.yaml"], ["schema"]])
def test_the_folder_of_an_output_file_is_made(here: Path, command: list[str]) -> None:
    assert call(*command, "--output", "new/folder/out.json").exit_code == 0
    assert json.loads(Path("new/folder/out.json").read_text())
    assert [path.name for path in Path("new/folder").iterdir()] == ["out.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_whatever_the_operating_system_refuses_is_one_sentence_with_the_path(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/there/out.json")

    monkeypatch.setattr(schema_command, "writable_file", refuse)
    said = refused("schema", "--output", "x.json")
    assert said.startswith(f"Error: /there/out.json: {os.strerror(number)}.")


NO_RUN = {
    "missing": None,
    "empty": {},
    "no JSON": {"result.json": b"{"},
    "binary": {"result.json": bytes(range(256))},
    "wrong types": {"result.json": b'{"run_id": 1, "name": [], "outcome": "finished"}'},
    "of another version": {"result.json": b'{"run_id": "1", "name": "x", "outcome": "superb"}'},
    "a folder": {"result.json/x": b""},
    "a history that is no JSON": {"bonn/history.jsonl": b"{\n{}\n"},
    "a history that is binary": {"bonn/history.jsonl": b"\xff\xfe\n\x00\n"},
    "a history of lists": {"bonn/history.jsonl": b"[]\n[]\n"},
    "a history in the place of a folder": {"bonn/history.jsonl/x": b""},
    "a graph that fits no matrix": {
        "result.json": b'{"run_id": "1", "name": "x", "outcome": "failed", '
        b'"graph": {"sites": ["a", "b"], "matrices": [[[1.0]]]}}'
    },
}


@pytest.mark.parametrize("files", NO_RUN.values(), ids=NO_RUN)
def test_a_folder_that_holds_no_run_or_a_damaged_one_gives_no_report(
    here: Path, files: dict[str, bytes] | None
) -> None:
    for name, content in (files or {}).items():
        Path("run", name).parent.mkdir(parents=True, exist_ok=True)
        Path("run", name).write_bytes(content)
    if files is not None:
        Path("run").mkdir(exist_ok=True)
    assert "run" in refused("report", "run")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report"],
        ["report", "mesh.yaml"],
        ["bundle", "mesh.yaml", "nobody"],
        ["bundle", "mesh.yaml", "../../etc"],
        ["monitor", "mesh.yaml", "--prometheus-port", "99999"],
        ["monitor", "mesh.yaml", "--prometheus-port", "-1"],
        ["run", "mesh.yaml"],
        ["run", "mesh.yaml", "--iterations", "0"],
        ["run", "mesh.yaml", "--stepsize", "nan"],
        ["run", "mesh.yaml", "--wire", "morse"],
        ["simulate", "mesh.yaml", "--iterations", "many"],
        ["simulate", "mesh.yaml", "--pace", "bonn=10"],
        ["doctor", "mesh.yaml"],
        ["top", "mesh.yaml", "--once"],
        ["top", "mesh.yaml", "--json"],
        ["up", "mesh.yaml", "--target", "moon"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_and_a_mesh_that_is_down_are_told(here: Path, arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code not in (0, None)
    assert result.output.strip()


@pytest.mark.parametrize("command", ["provision", "up", "bundle"])
@pytest.mark.parametrize("content", [b"", b"no", b"null", b'{"root_cert": 1}'])
def test_damaged_certificates_end_every_command_that_needs_them(
    here: Path, command: str, content: bytes
) -> None:
    Path("out/state").mkdir(parents=True)
    Path("out/state/cert.json").write_bytes(content)
    said = refused(command, "mesh.yaml", *OF_A_TOPOLOGY[command], "--output", "out")
    assert "out/state/cert.json" in said


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("content", [b"", b"no", b"null", b'{"x": 1}'])
def test_a_damaged_record_of_the_last_topology_ends_the_commands_that_need_it(
    here: Path, command: str, content: bytes
) -> None:
    Path("out/state").mkdir(parents=True)
    Path("out/state/topology.json").write_bytes(content)
    assert "out/state/topology.json" in refused(command, "mesh.yaml", "--output", "out")


@pytest.mark.parametrize("file", ["processes.json", "bonn/agent.json", "server/agent.json"])
@pytest.mark.parametrize(
    "content", [b"", b"no", b"null", b"[1]", b'{"bonn": 1}', b'{"url": "no"}', b"\xff", None]
)
@pytest.mark.parametrize("command", ["status", "doctor", "down", "run"])
def test_what_the_local_target_notes_may_be_damaged(
    here: Path, command: str, file: str, content: bytes | None
) -> None:
    place = Path("out/local", file)
    place.parent.mkdir(parents=True)
    if content is None:
        place.mkdir()
    else:
        place.write_bytes(content)
    call(command, "mesh.yaml", *OF_A_TOPOLOGY[command], "--output", "out")


@pytest.mark.parametrize("command", [command for command in OF_A_MESH if command != "plan"])
def test_another_mesh_in_the_same_folder_is_told(here: Path, kits: Path, command: str) -> None:
    document = yaml.safe_load(RING.read_text()) | {"name": "another"}
    Path("another.yaml").write_text(yaml.safe_dump(document))
    said = refused(command, "another.yaml", *OF_A_TOPOLOGY[command], "--output", kits)
    assert "holds the mesh ring3-consensus, and the topology file names it another" in said


def process(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "flaremesh.cli.main", *arguments]
    return subprocess.run(command, capture_output="stdout" not in options, timeout=60, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("command", [["plan"], ["status"], ["provision"], ["doctor"]])
def test_a_narrow_terminal_without_the_characters_shows_what_it_can(here: Path, command: list[str]) -> None:
    shutil.copy("mesh.yaml", "müh.yaml")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "20"}
    ended = process(*command, "müh.yaml", "--output", "öl", env=environment)
    assert ended.stdout
    assert b"Error" not in ended.stdout + ended.stderr


def test_a_full_disk_under_the_output_is_one_sentence(here: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = process("plan", "mesh.yaml", stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr.decode().splitlines() == ["Error: No space left on device. Make room there."]


def test_a_reader_that_ends_early_is_no_error(here: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        ended = process("plan", "mesh.yaml", stdout=closed, stderr=subprocess.PIPE)
    assert ended.stderr == b""


def test_a_bundle_is_not_signed_by_a_key_that_lies_beside_it(here: Path) -> None:
    (here / "build/mesh").mkdir(parents=True)
    (here / "build/mesh/mine.key").touch()
    said = refused("bundle", "mesh.yaml", "bonn", "--output", "build/mesh", "--sign", "build/mesh/mine.key")
    assert "lies beside what it signs" in said
