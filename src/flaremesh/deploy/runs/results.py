"""What a run leaves behind on the admin's machine: the folder ``<mesh>/runs/<run id>``."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flaremesh.p2p.outcome import RESULT, RUN_RESULT, RunResult
from flaremesh.record import RecordError
from flaremesh.runtime.history import HISTORY, History
from flaremesh.topology.schema import Topology

RUNS: Final = "runs"
"""In a mesh's folder: the folder of the runs' folders."""

TOPOLOGY: Final = "topology.json"
"""In a run's folder: the topology with which it was submitted from here."""


@dataclass(frozen=True)
class RecordedRun:
    """What a run folder holds.

    Attributes:
        result: how the run ended.
        histories: of every site that left one.
    """

    result: RunResult
    histories: Mapping[str, History]

    @property
    def sites(self) -> tuple[str, ...]:
        """All names known, in the order of the graph where there is one."""
        graph = self.result.graph.sites if self.result.graph else ()
        return tuple(dict.fromkeys([*graph, *self.result.sites, *self.histories]))

    @property
    def without_history(self) -> tuple[str, ...]:
        """Sites whose history is missing."""
        return tuple(site for site in self.sites if site not in self.histories)


def load_result(folder: Path) -> RunResult:
    """Read ``result.json``; a folder without one belongs to a run that is unfinished.

    Raises:
        RecordError: the file is not a result.
    """
    path = folder / RESULT
    try:
        return RUN_RESULT.read(path.read_bytes(), path)
    except FileNotFoundError:
        reason = f"There is no {RESULT}: the run has not ended, or its result was not fetched."
        return RunResult(folder.name, "unfinished", name=folder.name, reason=reason)


def forget_result(folder: Path) -> None:
    """Remove what was gathered of a run that had ended and goes on; the sites keep it.

    Raises:
        OSError: it cannot be removed.
    """
    (folder / RESULT).unlink(missing_ok=True)
    for history in folder.glob(f"*/{HISTORY}"):
        shutil.rmtree(history.parent)


def gathered_result(mesh: Path, prefix: str) -> RunResult | None:
    """The result of the one run in a mesh's folder whose id begins so; None if there is no such one."""
    found = [path.parent for path in (mesh / RUNS).glob(f"*/{RESULT}") if path.parent.name.startswith(prefix)]
    return load_result(found[0]) if prefix and len(found) == 1 else None


def load_run(folder: Path) -> RecordedRun:
    """Read a run folder as far as it got.

    Raises:
        RecordError: the folder holds neither a result nor a history, or a file in it is broken.
    """
    histories = {path.parent.name: History.read(path) for path in sorted(folder.glob(f"*/{HISTORY}"))}
    if not histories and not (folder / RESULT).is_file():
        raise RecordError(
            f"{folder} holds no run: there is neither {RESULT} nor <site>/{HISTORY}. "
            "Name the folder of one run, build/<mesh>/runs/<run id>."
        )
    return RecordedRun(load_result(folder), histories)


def submitted_topology(folder: Path) -> Topology | None:
    """The topology with which a run was submitted; None if that was elsewhere, or cannot be read."""
    try:
        return Topology.model_validate_json((folder / TOPOLOGY).read_bytes())
    except (OSError, ValueError):
        return None
