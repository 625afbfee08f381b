"""What a run leaves behind: the folder ``<mesh>/runs/<run id>`` and its two formats."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from flaremesh.errors import FlaremeshError, first_mistake
from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.runtime.history import History

RESULT = "result.json"
HISTORY = "history.jsonl"


class RunFolderError(FlaremeshError):
    """A folder holds no run, or a file in it is broken."""

    exit_code = 2


class _Result(BaseModel):
    # unknown fields pass: a result of a newer version stays readable
    model_config = ConfigDict(frozen=True)


class SiteResult(_Result):
    """One site at the end of a run.

    Attributes:
        iterations: how many it finished.
        metrics: of its last evaluation.
        seconds: from its first iteration to its last.
        sent_bytes: payload per out-neighbour.
        received_bytes: payload per in-neighbour.
        links: what carried the messages to each out-neighbour, ``direct`` or ``relay``.
    """

    iterations: int
    metrics: Mapping[str, float | None] = {}
    seconds: float | None = None
    sent_bytes: Mapping[str, int] = {}
    received_bytes: Mapping[str, int] = {}
    links: Mapping[str, str] = {}


class Graph(_Result):
    """The graph of a run.

    Attributes:
        sites: names in the order of the matrices' rows.
        matrices: one mixing matrix per phase; row i holds the weights with which site i mixes.
    """

    sites: tuple[str, ...]
    matrices: tuple[tuple[tuple[float, ...], ...], ...]

    @model_validator(mode="after")
    def _square(self) -> Self:
        count = len(self.sites)
        if any([len(row) for row in matrix] != [count] * count for matrix in self.matrices):
            raise ValueError(f"a matrix has not {count} rows and columns, one for each site")
        return self


class RunResult(_Result):
    """``result.json``: how a run ended.

    Attributes:
        run_id: id of the run.
        name: name of the run.
        outcome: ``unfinished`` where there is no result.json (yet).
        reason: why the run did not finish, None if it did.
        algorithm: name of the algorithm.
        topology: name of the mesh.
        iterations: how many were asked for.
        seconds: wall clock of the run.
        submit_to_result_seconds: from submission until the result was there.
        predicted_contraction: of the consensus distance, per iteration of mixing alone; None if unknown.
        sites: what is known of every site.
        graph: who mixed with whom.
    """

    run_id: str
    name: str
    outcome: Literal["finished", "failed", "aborted", "unfinished"]
    reason: str | None = None
    algorithm: str | None = None
    topology: str | None = None
    iterations: int | None = None
    seconds: float | None = None
    submit_to_result_seconds: float | None = None
    predicted_contraction: float | None = None
    sites: Mapping[str, SiteResult] = {}
    graph: Graph | None = None


@dataclass(frozen=True)
class Run:
    """A run folder.

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
        RunFolderError: the file is not a result.
    """
    path = folder / RESULT
    try:
        return RunResult.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        reason = f"There is no {RESULT}: the run has not ended, or its result was not fetched."
        return RunResult(run_id=folder.name, name=folder.name, outcome="unfinished", reason=reason)
    except ValidationError as error:
        raise RunFolderError(f"{path} is not the result of a run: {first_mistake(error)}.") from error


def load_history(path: Path) -> History:
    """Read a site's ``history.jsonl``; a last line cut off by the end of the site is dropped.

    Raises:
        RunFolderError: another line is not a record.
    """
    history = History()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            _keep(json.loads(line), history)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise RunFolderError(f"{path}, line {number}: not JSON ({error.msg}).") from error
        except ValidationError as error:
            raise RunFolderError(f"{path}, line {number}: {first_mistake(error)}.") from error
    return history


def load_run(folder: Path) -> Run:
    """Read a run folder as far as it got.

    Raises:
        RunFolderError: the folder holds neither a result nor a history, or a file in it is broken.
    """
    histories = {path.parent.name: load_history(path) for path in sorted(folder.glob(f"*/{HISTORY}"))}
    if not histories and not (folder / RESULT).is_file():
        raise RunFolderError(
            f"{folder} holds no run: there is neither {RESULT} nor <site>/{HISTORY}. "
            "Name the folder of one run, build/<mesh>/runs/<run id>."
        )
    return Run(load_result(folder), histories)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


# a history writes null for NaN and infinity; only a loss may be None for another reason
_Number = Annotated[float, BeforeValidator(_number)]


class _Iteration(BaseModel):
    iteration: int
    loss: float | None
    consensus_distance: _Number
    seconds: _Number
    wait_seconds: _Number
    gradient_seconds: _Number
    overlap_seconds: _Number = 0.0
    finite: bool = True


class _Evaluation(BaseModel):
    iteration: int
    evaluation: dict[str, _Number]


def _keep(row: object, history: History) -> None:
    if isinstance(row, dict) and "evaluation" in row:
        evaluation = _Evaluation.model_validate(row)
        history.evaluation(Evaluation(evaluation.iteration, evaluation.evaluation))
    else:
        history.iteration(Iteration(**vars(_Iteration.model_validate(row))))
