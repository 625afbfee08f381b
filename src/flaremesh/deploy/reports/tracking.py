"""A run's histories for the programs in which people compare experiments: TensorBoard and MLflow."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from flaremesh.deploy.reports.event_file import Scalar, write_events
from flaremesh.deploy.runs.results import RecordedRun, load_run, submitted_topology
from flaremesh.errors import FlaremeshError
from flaremesh.metrics.names import RunState
from flaremesh.metrics.sink import Evaluation, Iteration, numbers_of
from flaremesh.printable import printable
from flaremesh.runtime.history import History

_EVENTS: Final = "events.out.tfevents.0.flaremesh"
_MOST_METRICS: Final = 1000  # that MLflow takes at once
_NOT_IN_NAMES: Final = re.compile(r"[^\w\-./ ]")  # of MLflow's metrics
_STATUS: Final[Mapping[str, str]] = {RunState.FINISHED: "FINISHED", RunState.ABORTED: "KILLED"}


class TrackingError(FlaremeshError):
    """A run cannot be handed over; the message says what to do."""


def to_tensorboard(folder: Path, output: Path) -> list[Path]:
    """Write the histories of a run as TensorBoard's event files, in ``<output>/<run id>/<site>``.

    Args:
        folder: a run folder.
        output: what ``tensorboard --logdir`` is given; what it holds of the run is replaced.

    Returns:
        The files, one for each site.

    Raises:
        RecordError: the folder holds no run, or a file in it is broken.
        OSError: a file cannot be written.
    """
    run, files = load_run(folder), []
    for site, history in run.histories.items():
        place = output / _id(folder) / site
        place.mkdir(parents=True, exist_ok=True)
        write_events(place / _EVENTS, _scalars(history, _began_at(folder, run)))
        files.append(place / _EVENTS)
    return files


def to_mlflow(folder: Path, uri: str) -> list[str]:
    """Write the histories of a run into an MLflow store: an experiment for its mesh, in it a run per site.

    What the store has of the same run is deleted.

    Args:
        folder: a run folder.
        uri: of the store, as MLflow takes it: a server's, sqlite:///FILE, or a folder's.

    Returns:
        The ids of the runs there.

    Raises:
        RecordError: the folder holds no run, or a file in it is broken.
        TrackingError: MLflow is not installed here, or refuses something.
    """
    run = load_run(folder)
    try:
        from mlflow.exceptions import MlflowException

        try:
            return _log(uri, folder, run)
        except MlflowException as error:
            raise TrackingError(f"MLflow at {uri} refuses the run: {printable(error)}") from error
    except ImportError as error:
        raise TrackingError(
            f"what writes to {uri} cannot be imported ({error}). Install it beside flaremesh: "
            "pip install mlflow, or for a server's URI mlflow-skinny"
        ) from error


def _log(uri: str, folder: Path, run: RecordedRun) -> list[str]:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    result, run_id, began_at = run.result, _id(folder), _began_at(folder, run)
    client, name = MlflowClient(tracking_uri=uri), result.topology or "flaremesh"
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    for earlier in client.search_runs([experiment], f"tags.`flaremesh.run` = '{run_id}'"):
        client.delete_run(earlier.info.run_id)
    ids = []
    for site, history in run.histories.items():
        tags = {"flaremesh.run": run_id, "flaremesh.site": site}
        if why := result.ended or result.reason:
            tags["flaremesh.ended"] = why
        made = client.create_run(experiment, round(1e3 * began_at), tags, f"{result.name} {site}").info.run_id
        client.log_batch(made, params=[Param(key, str(value)) for key, value in _parameters(folder).items()])
        metrics = [
            Metric(_NOT_IN_NAMES.sub("_", scalar.tag), scalar.value, round(1e3 * scalar.time), scalar.step)
            for scalar in _scalars(history, began_at)
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            client.log_batch(made, metrics=metrics[start : start + _MOST_METRICS])
        ended_at = round(1e3 * (began_at + _seconds(history)))
        client.set_terminated(made, _STATUS.get(result.outcome, "FAILED"), ended_at)
        ids.append(made)
    return ids


def _id(folder: Path) -> str:
    """The run's, as its folder has it: what a file says may lead anywhere."""
    return re.sub(r"[^\w.-]", "_", folder.resolve().name)


def _parameters(folder: Path) -> dict[str, Any]:
    """What was asked of the run, as far as that is known here."""
    topology = submitted_topology(folder)
    if topology is None:
        return {}
    run = topology.run.model_dump(mode="json", exclude_unset=True, exclude={"problem", "options"})
    return run | topology.run.options


def _began_at(folder: Path, run: RecordedRun) -> float:
    """About when the run began, Unix time: histories know how long everything took, and not when it was."""
    return folder.stat().st_mtime - max(map(_seconds, run.histories.values()), default=0.0)


def _seconds(history: History) -> float:
    records: list[Iteration | Evaluation] = [*history.iterations, *history.evaluations]
    return sum(record.seconds for record in records)


def _scalars(history: History, began_at: float) -> Iterator[Scalar]:
    """All that a history has; what is not finite is left out, because not every store has a place for it."""
    time = began_at
    for record in history.ordered():
        time += getattr(record, "seconds", 0.0)
        step, numbers = numbers_of(record)
        yield from (Scalar(name, step, number, time) for name, number in numbers.items())
