"""What a run leaves on the admin's machine, whatever its server tells and whichever copies fail."""

import io
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from flaremesh.deploy.runs.gather import gather
from flaremesh.deploy.runs.results import load_result
from flaremesh.deploy.targets.archives import unpack
from flaremesh.deploy.targets.base import DeployError
from flaremesh.deploy.targets.kubernetes import commands
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.metrics.names import RunState
from flaremesh.metrics.sink import Evaluation
from flaremesh.p2p.outcome import Graph, RunResult, SiteResult
from flaremesh.runtime.history import HISTORY, History
from flaremesh.topology.load import load

RING = Path(__file__).parents[3] / "provision/ring3-consensus.yaml"
SITES = ("heidelberg", "bonn", "aachen")
THINNED = Evaluation(1, {"loss": 0.5})
TOLD = RunResult(
    "run-1", RunState.FINISHED, sites={site: SiteResult(iterations=1, history=[THINNED]) for site in SITES}
)


class Gathering:
    """A run of the ring of three that has ended, and every site keeps a history of it."""

    def __init__(self, folder: Path):
        self.folder = folder / "runs/run-1"
        self.folder.mkdir(parents=True)
        self.warnings: list[str] = []
        self._topology = load(RING)
        self._target = LocalTarget(self._topology, folder)
        self.kept = {site: folder / f"local/{site}/run-1/flaremesh" for site in SITES}
        for site, kept in self.kept.items():
            kept.mkdir(parents=True)
            (kept / "history.jsonl").write_text(f"all of {site}\n")

    def gather(self, told: RunResult = TOLD) -> RunResult:
        """What is written where the server tells this."""
        result = gather(self._topology, self._target, self.folder, "mine", told, self._warn)
        assert load_result(self.folder) == result
        return result

    def history(self, site: str) -> str:
        return (self.folder / site / "history.jsonl").read_text()

    def _warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def run(tmp_path: Path) -> Gathering:
    return Gathering(tmp_path / "mesh")


def test_what_the_sites_keep_is_copied(run: Gathering) -> None:
    assert run.gather().outcome == "finished"
    assert [run.history(site) for site in SITES] == [f"all of {site}\n" for site in SITES]
    assert run.warnings == []


def test_a_copy_that_fails_is_told_and_the_servers_history_stands_in_for_it(run: Gathering) -> None:
    (run.kept["bonn"] / "model.safetensors").symlink_to("nowhere")
    assert run.gather().outcome == "finished"
    (warning,) = run.warnings
    assert warning.startswith("what bonn keeps of the run could not be copied: ")
    assert "model.safetensors" in warning
    assert History.read(run.folder / "bonn" / HISTORY).evaluations == [THINNED]
    assert run.history("aachen") == "all of aachen\n"


def test_a_link_that_code_has_left_at_a_site_is_not_followed(run: Gathering) -> None:
    (run.kept["bonn"] / "model.safetensors").symlink_to("/dev/zero")
    run.gather()
    assert run.warnings == [
        "what bonn keeps of the run could not be copied: model.safetensors is neither a file nor a folder. "
        "It is still there, in run-1/flaremesh of its workspace."
    ]


def test_a_site_with_nothing_to_copy_has_the_servers_history(run: Gathering) -> None:
    (run.kept["bonn"] / "history.jsonl").unlink()
    run.kept["bonn"].rmdir()
    run.gather()
    assert History.read(run.folder / "bonn" / HISTORY).evaluations == [THINNED]
    assert run.warnings == []


@pytest.mark.parametrize("name", ["../../../elsewhere", "stranger"])
def test_sites_that_the_topology_does_not_name_are_ignored(run: Gathering, tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    sites = {site: SiteResult(iterations=1, history=[THINNED]) for site in (name, "bonn")}
    assert run.gather(replace(TOLD, sites=sites)).sites.keys() == {"bonn"}
    written = {path.relative_to(run.folder) for path in set(tmp_path.rglob("*")) - before}
    assert {str(path) for path in written} == {"result.json", "bonn", "bonn/history.jsonl"}


def test_the_server_does_not_say_which_run_it_was(run: Gathering) -> None:
    result = run.gather(replace(TOLD, run_id="../run-2", name="other", topology="other"))
    assert (result.run_id, result.name, result.topology) == ("run-1", "mine", "ring3-consensus")


def test_the_server_does_not_say_over_which_graph_it_was(run: Gathering) -> None:
    lie = Graph(["bonn", "moon"], [[[1.0, 0.0], [0.0, 1.0]]])
    result = run.gather(replace(TOLD, graph=lie, predicted_contraction=1e300))
    assert result.graph
    assert result.graph.sites == list(SITES)
    assert result.predicted_contraction == pytest.approx(0.0, abs=1)


def test_the_thinned_histories_are_not_written_twice(run: Gathering) -> None:
    assert [site.history for site in run.gather().sites.values()] == [[], [], []]


# archives out of containers and pods


def archive(*names: str) -> io.BytesIO:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as files:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 5000
            files.addfile(entry, io.BytesIO(bytes(5000)))
    content.seek(0)
    return content


def test_an_archive_becomes_a_folder(tmp_path: Path) -> None:
    unpack(archive("flaremesh/model", "flaremesh/history"), tmp_path / "bonn")
    assert {path.name for path in (tmp_path / "bonn").iterdir()} == {"model", "history"}


def cut_off() -> io.BytesIO:
    return io.BytesIO(archive("flaremesh/model").getvalue()[:2000])


@pytest.mark.parametrize("broken", [cut_off(), io.BytesIO(), archive(), archive("../model")])
def test_an_archive_that_is_no_copy_is_an_error_and_leaves_nothing(
    tmp_path: Path, broken: io.BytesIO
) -> None:
    with pytest.raises(DeployError, match="damaged or cut off"):
        unpack(broken, tmp_path / "bonn")
    assert list(tmp_path.iterdir()) == []


# commands that copy

SLOW = ("sh", "-c", "for i in 1 2 3 4 5 6; do sleep 0.5; echo x; done")
SILENT = (sys.executable, "-c", "import signal; signal.pause()")


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_SILENCE_SECONDS", 2.0)


@pytest.mark.usefixtures("_impatient")
def test_a_copy_takes_as_long_as_bytes_come(tmp_path: Path) -> None:
    with (tmp_path / "copy").open("wb") as output:
        assert commands.call(*SLOW, output=output).returncode == 0
    assert (tmp_path / "copy").read_text() == 6 * "x\n"


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("into_file", [True, False])
def test_a_command_that_says_nothing_is_given_up(tmp_path: Path, into_file: bool) -> None:
    with (
        (tmp_path / "copy").open("wb") as output,
        pytest.raises(DeployError, match="gives no answer within 2 s"),
    ):
        commands.call(*SILENT, output=output if into_file else subprocess.PIPE)
