"""The folder of a run: its result, and a copy of what each site keeps of it."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flaremesh import atomic
from flaremesh.deploy.targets.base import DeployError, Target
from flaremesh.p2p.outcome import RESULT, RUN_FOLDER, RUN_RESULT, Graph, RunResult, SiteResult
from flaremesh.printable import printable
from flaremesh.runtime.history import HISTORY, History
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology


def gather(
    topology: Topology,
    target: Target,
    folder: Path,
    name: str,
    told: RunResult,
    warn: Callable[[str], None],
    job: str | None = None,
) -> RunResult:
    """Write a run's result into ``folder``, and beside it a copy of what each site keeps of the run.

    Where a copy fails, or nothing can be reached, the thinned history that the server has takes its place.
    What is in the folder already is not copied again, and two that gather a run do so one after the other.

    Args:
        topology: the mesh; sites that it does not name are ignored.
        target: where the sites are.
        folder: of the run, named by its id.
        name: of the run.
        told: the server's result, with thinned histories; where this machine knows better, as the run's name
            and graph, it is not believed.
        warn: called with copies that failed.
        job: of the run's last attempt; by default the first, whose id is the run's.

    Returns:
        The result as it is written, without the thinned histories.
    """
    sites = {site.name: told.sites[site.name] for site in topology.sites if site.name in told.sites}
    mesh = build(topology)
    names = {site.name for site in topology.sites}
    result = replace(
        told,
        members=tuple(replace(m, sites=tuple(s for s in m.sites if s in names)) for m in told.members),
        run_id=folder.name,
        name=name,
        topology=topology.name,
        algorithm=topology.run.algorithm,
        iterations=topology.run.iterations,
        predicted_contraction=mesh.predicted_contraction(topology.run),
        graph=Graph(list(mesh.sites), [matrix.tolist() for matrix in mesh.matrices]),
        sites={site: replace(known, history=[]) for site, known in sites.items()},
    )
    with _alone(folder):
        atomic.write(folder / RESULT, RUN_RESULT.json(result, indent=2) + "\n", durable=True)
        for site, known in sites.items():
            if (folder / site).exists():
                continue
            if not _copied(target, site, job or folder.name, folder / site, warn) and known.history:
                _write_history(folder / site, known)
    return result


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let nobody else in who gathers the run into the same folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_history(folder: Path, site: SiteResult) -> None:
    folder.mkdir()
    with History(folder / HISTORY) as history:
        for record in site.history:
            history.add(record)


def _copied(target: Target, site: str, job: str, folder: Path, warn: Callable[[str], None]) -> bool:
    partial = folder.with_name(".partial")  # of no site: their names begin with a letter or a digit
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if copied := target.fetch(site, job, partial):
            partial.rename(folder)
        return copied
    except (DeployError, OSError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        warn(
            f"what {site} keeps of the run could not be copied: {printable(error)}. "
            f"It is still there, in {job}/{RUN_FOLDER} of its workspace."
        )
        return False
