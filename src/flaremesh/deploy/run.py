"""A run: from submission to the folder with what it leaves behind."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flaremesh.deploy.results import HISTORY, RESULT, RunResult, load_result
from flaremesh.deploy.session import AdminSession, Job, ServerLost, connect
from flaremesh.deploy.target import DeployError, Target
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.provision.job import write_job
from flaremesh.provision.plan import check
from flaremesh.topology.schema import Topology

Progress = Mapping[str, Any]
"""What a run's controller tells: its state, and the latest figures of every site."""

_POLL_SECONDS = 0.2
_SILENCE_SECONDS = 10.0  # a server that is silent for longer is lost
_END_SECONDS = 15.0  # NVFlare kills a job process 10 s after it was told to end


def run(
    topology: Topology, target: Target, mesh: Path, name: str, show: Callable[[str, Progress], None]
) -> RunResult:
    """Run ``topology.run`` and gather its results in ``mesh/runs/<run id>``.

    A KeyboardInterrupt aborts the run; whatever the outcome, nothing of it is left running.

    Args:
        topology: the mesh and its run.
        target: where the mesh is up.
        mesh: its folder.
        name: of the run, for people.
        show: hears the run id and the progress, a few times a second.

    Raises:
        UnsoundRun, JobError: the run makes no sense.
        DeployError: somebody is not ready, or the server does not take the run.
    """
    check(topology)
    _require([p.name for p in target.participants() if not p.ready])
    with connect(topology, mesh) as session:
        registered = session.sites()
        _require([site.name for site in topology.sites if site.name not in registered])
        run_id, folder = _submit(session, topology, mesh / "runs", name)
        started = time.monotonic()
        try:
            document = _follow(session, run_id, lambda progress: show(run_id, progress))
        except KeyboardInterrupt:
            document = _abort(session, run_id)
        except ServerLost as error:
            document = _failed(str(error))
        if document.get("outcome") != "finished":
            target.end_run(run_id, _END_SECONDS)
    defaults = {
        "run_id": run_id,
        "name": name,
        "topology": topology.name,
        "algorithm": topology.run.algorithm,
    }
    defaults |= {"iterations": topology.run.iterations, "seconds": time.monotonic() - started}
    _gather(folder, defaults | document, target)
    return load_result(folder)


def _require(missing: list[str]) -> None:
    if missing:
        raise DeployError(f"not ready: {', '.join(missing)}. `flaremesh up` starts who does not run.")


def _submit(session: AdminSession, topology: Topology, runs: Path, name: str) -> tuple[str, Path]:
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix=".submit-") as staging:
        job = Path(staging) / "job"
        write_job(topology, job, name=name)
        run_id = session.submit(job)
        folder = runs / run_id
        folder.mkdir()
        job.rename(folder / "job")
    return run_id, folder


def _follow(session: AdminSession, run_id: str, show: Callable[[Progress], None]) -> dict[str, Any]:
    """Watch a run until it has a result; the controller tells it seconds before NVFlare ends the job."""
    heard = time.monotonic()
    while True:
        try:
            progress = session.progress(run_id)
            if progress is None and session.job(run_id).ended:
                return _ended(session, run_id)
            heard = time.monotonic()
        except ServerLost:
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise
            progress = None
        if progress is not None:
            show(progress)
            if progress.get("result"):
                return dict(progress["result"])
        time.sleep(_POLL_SECONDS)


def _abort(session: AdminSession, run_id: str) -> dict[str, Any]:
    try:
        if session.abort(run_id, _END_SECONDS):
            return _ended(session, run_id) | {"outcome": "aborted", "reason": None}
    except ServerLost:
        pass
    return {"outcome": "aborted"}


def _ended(session: AdminSession, run_id: str) -> dict[str, Any]:
    """The result of a job that has ended, or the reason why it left none."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = session.download(run_id, Path(scratch))
        result = next(folder.rglob(f"{RUN_FOLDER}/{RESULT}"), None)
        if result:
            return dict(json.loads(result.read_text()))
    return _failed(_reason(session.job(run_id)))


def _failed(reason: str) -> dict[str, Any]:
    return {"outcome": "failed", "reason": reason}


def _reason(job: Job) -> str:
    details = [detail for detail in job.details if not detail.endswith(": OK")]
    return f"NVFlare ended the job with {job.status}" + (f": {details[-1]}" if details else "")


def _gather(folder: Path, document: dict[str, Any], target: Target) -> None:
    histories = document.pop("histories", {})
    (folder / RESULT).write_text(json.dumps(document, indent=2) + "\n")
    for site in document.get("sites", histories):
        kept = target.run_folder(site, document["run_id"])
        if kept:
            shutil.copytree(kept, folder / site)
        elif histories.get(site):
            (folder / site).mkdir()
            rows = "".join(json.dumps(row) + "\n" for row in histories[site])
            (folder / site / HISTORY).write_text(rows)
