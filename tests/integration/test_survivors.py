"""Runs that lose a site for good go on without it, with it again once it is back, or with others if asked."""

import threading
import time
from pathlib import Path

import pytest
from running_mesh import START_SECONDS, running_mesh, wait_until
from safetensors.torch import load_file
from test_resumed_runs import DIGITS, Once, kill

from flaremesh.deploy.runs.resume import resume_with
from flaremesh.deploy.runs.run import run
from flaremesh.deploy.watch.status import mesh_status
from flaremesh.deploy.watch.top import Watch
from flaremesh.metrics.names import AgentMetric
from flaremesh.topology.load import load
from flaremesh.topology.schema import FixedGraph

VALUES = {"heidelberg": 1.0, "bonn": 10.0, "aachen": 3.0, "dresden": 5.0}
MISSING = AgentMetric.RUN_MISSING_SINCE.value.name
LEFT = ("aachen", "dresden", "heidelberg")
OPTIONS = {
    "on_loss": "continue",
    "patience": 5,
    "checkpoint": {"every": 500},
    "iterations": 12_000,
    "stepsize": 0.1,
    "problem": {"path": "flaremesh.problems.consensus.Consensus", "args": {"values": VALUES}},
}


def values_of(mesh, result):
    """What each site's model says in the end."""
    folder = mesh.folder / "runs" / result.run_id
    return {site: float(load_file(folder / site / "model.safetensors")["value"]) for site in result.sites}


def who_is_missing(mesh):
    """What the server's metrics, ``flaremesh top`` and ``flaremesh status`` say: run, site, since when."""
    yield from (
        (sample.labels["run_id"], sample.labels["site"], sample.value)
        for sample in mesh.series("server", MISSING, {})
    )
    watch = Watch(mesh.topology, mesh.target, 0.5)
    watch.wait(scrapes=1)
    yield from ((missing.run_id, missing.site, missing.since) for missing in watch.view().missing)
    for known in mesh_status(mesh.topology, mesh.target, mesh.folder).runs:
        yield from ((known.run_id, site, since) for site, since in known.missing.items())


@pytest.mark.timeout(300)
def test_the_sites_that_are_left_come_to_the_minimiser_of_their_own_sum(tmp_path: Path):
    asked = load(DIGITS).run
    options = type(asked).model_validate(asked.model_dump() | OPTIONS)
    with running_mesh(tmp_path, DIGITS, run=options) as mesh:
        shown, told = [], []
        lose = Once("bonn", 2000, lambda run_id: kill(mesh, "bonn"))

        def show(run_id, progress):
            lose(run_id, progress)
            shown.append(dict(progress.missing))
            if progress.missing and not told:
                told.extend(who_is_missing(mesh))

        started = time.time()
        result = mesh.run("survivors", show)
        assert {(run_id, site) for run_id, site, _ in told} == {(result.run_id, "bonn")}
        assert all(started < since < time.time() for _, _, since in told)
        assert len(told) == 3
        (info,) = mesh.series("aachen", "run_info", {"run_id": result.run_id})
        assert info.labels["attempt"] not in {"", result.run_id}
        wait_until(lambda: mesh.metric("server", MISSING, site="bonn") is None, 30)
        before, after = result.members
        assert before.since == 0
        assert set(before.sites) == set(VALUES)
        assert after.since >= 1500
        assert after.sites == LEFT
        assert {"bonn": after.since} in shown
        assert values_of(mesh, result) == pytest.approx(dict.fromkeys(LEFT, 3.0), abs=1e-9)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_with_a_site_that_is_back_they_come_to_the_minimiser_of_the_whole_sum(tmp_path: Path):
    asked = load(DIGITS).run
    options = type(asked).model_validate(asked.model_dump() | OPTIONS | {"iterations": 30_000})
    with running_mesh(tmp_path, DIGITS, run=options) as mesh:
        warned = []
        lose = Once("bonn", 2000, lambda run_id: kill(mesh, "bonn"))
        start_again = []

        def show(run_id, progress):
            lose(run_id, progress)
            if progress.missing and progress.state == "running" and not start_again:
                start_again.append(mesh.target.up(START_SECONDS))

        result = mesh.run("back", show, warned.append)
        assert [set(members.sites) for members in result.members] == [set(VALUES), set(LEFT), set(VALUES)]
        assert [members.since for members in result.members] == sorted({m.since for m in result.members})
        assert result.missing == {}
        assert len([told for told in warned if "goes on once all are back" in told]) == 1
        assert values_of(mesh, result) == pytest.approx(dict.fromkeys(VALUES, 4.75), abs=1e-9)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_run_that_is_resumed_with_other_sites_comes_to_the_minimiser_of_their_sum(tmp_path: Path):
    mesh_file = load(DIGITS)
    run_options = type(mesh_file.run).model_validate(mesh_file.run.model_dump() | OPTIONS)
    with running_mesh(tmp_path, DIGITS, run=run_options, graph=FixedGraph(kind="complete")) as mesh:

        def of(*sites):
            chosen = tuple(site for site in mesh.topology.sites if site.name in sites)
            return mesh.topology.model_copy(update={"sites": chosen})

        stop, warned = threading.Event(), []
        far = Once("aachen", 2000, lambda run_id: stop.set())
        first = run(of(*LEFT), mesh.target, mesh.folder, "first", far, stop, warned.append)
        assert first.outcome == "aborted"
        others = ("aachen", "bonn", "dresden")
        result = resume_with(
            of(*others),
            mesh.target,
            mesh.folder,
            first.run_id,
            lambda *_: None,
            threading.Event(),
            warned.append,
        )
        assert result.outcome == "finished", result.reason
        before, after = result.members
        assert (before.sites, after.sites) == (("aachen", "dresden"), others)
        assert after.since >= 1500
        assert values_of(mesh, result) == pytest.approx(dict.fromkeys(others, 6.0), abs=1e-9)
