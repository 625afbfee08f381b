"""Which folders of old runs are removed."""

import os
import time
import uuid
from pathlib import Path

import pytest

from flaremesh.p2p.agents.janitor import Retention, sweep, sweep_stores
from flaremesh.p2p.store import ORDER, store_of

DAY = 86_400.0


def make_run(workspace: Path, days_ago: float) -> str:
    run = workspace / str(uuid.uuid4())
    (run / "app_site").mkdir(parents=True)
    (run / "log.txt").touch()
    when = time.time() - days_ago * DAY
    for path in (run / "log.txt", run / "app_site", run):
        os.utime(path, (when, when))
    return run.name


def test_runs_older_than_the_limit_are_removed(tmp_path):
    young, old = make_run(tmp_path, days_ago=29), make_run(tmp_path, days_ago=31)
    assert sweep(tmp_path, running=(), retention=Retention(runs=50, days=30)) == [old]
    assert [folder.name for folder in tmp_path.iterdir()] == [young]


def test_only_the_last_runs_are_kept(tmp_path):
    runs = [make_run(tmp_path, days_ago=days) for days in (1, 2, 3, 4)]
    assert set(sweep(tmp_path, (), Retention(runs=2, days=30))) == set(runs[2:])


def test_a_running_run_stays_however_old(tmp_path):
    running = make_run(tmp_path, days_ago=100)
    assert sweep(tmp_path, {running}, Retention(runs=1, days=1)) == []


def test_a_running_run_takes_no_place_of_a_finished_one(tmp_path):
    finished, running = make_run(tmp_path, days_ago=2), make_run(tmp_path, days_ago=1)
    assert sweep(tmp_path, {running}, Retention(runs=1, days=30)) == []
    assert (tmp_path / finished).is_dir()


def test_a_run_is_as_young_as_its_last_log_line(tmp_path):
    run = make_run(tmp_path, days_ago=100)
    (tmp_path / run / "log.txt").write_text("still here")
    assert sweep(tmp_path, (), Retention(runs=1, days=30)) == []


def test_nothing_but_run_folders_is_touched(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    workspace = tmp_path / "workspace"
    for name in ("startup", "local", "metrics", "transfer"):
        (workspace / name).mkdir(parents=True)
    (workspace / "log.txt").touch()
    elsewhere.mkdir()
    (workspace / str(uuid.uuid4())).symlink_to(elsewhere)
    (workspace / str(uuid.uuid4())).touch()
    before = sorted(workspace.iterdir())
    for path in before:
        os.utime(path, (0, 0), follow_symlinks=False)
    assert sweep(workspace, (), Retention(runs=1, days=1)) == []
    assert sorted(workspace.iterdir()) == before


@pytest.mark.parametrize(("runs", "days"), [(0, 30.0), (1, 0.0), (1, -1.0)])
def test_keeping_nothing_at_all_is_refused(runs, days):
    with pytest.raises(ValueError, match="keep at least one run"):
        Retention(runs, days)


def make_store(workspace: Path, order: str, days_ago: float = 0) -> tuple[Path, str]:
    """The store of a run, and the job of an attempt of it."""
    job = str(uuid.uuid4())
    file = workspace / job / "app_site" / ORDER
    file.parent.mkdir(parents=True)
    file.write_text(order)
    store = store_of(workspace, workspace / job / "app_site")
    (store / "checkpoints").mkdir(parents=True)
    (store / "checkpoints/500").touch()
    when = time.time() - days_ago * DAY
    for path in (store / "checkpoints/500", store / "checkpoints", store):
        os.utime(path, (when, when))
    return store, job


def test_the_stores_of_runs_that_are_over_and_old_ones_are_removed(tmp_path):
    (over, _), (old, _), (young, _) = (
        make_store(tmp_path, order, days) for order, days in (("over", 0), ("old", 31), ("young", 29))
    )
    assert set(sweep_stores(tmp_path, (), {over.name}, days=30)) == {over.name, old.name}
    assert list(young.parent.iterdir()) == [young]


def test_the_store_of_a_run_that_runs_stays_whatever_is_known_of_it(tmp_path):
    store, job = make_store(tmp_path, "running", days_ago=100)
    assert sweep_stores(tmp_path, {job}, {store.name}, days=1) == []
    assert sweep_stores(tmp_path, (), (), days=1) == [store.name]


def test_a_store_is_as_young_as_the_last_change_in_it(tmp_path):
    store, _ = make_store(tmp_path, "order", days_ago=100)
    (store / "checkpoints/500").touch()
    assert sweep_stores(tmp_path, (), (), days=1) == []


def test_a_workspace_without_stores_has_none_to_remove(tmp_path):
    assert sweep_stores(tmp_path, (), (), days=1) == []
