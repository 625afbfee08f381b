"""Removes the folders of old runs, which NVFlare keeps for ever, and the stores of those that are over."""

import logging
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flaremesh.p2p.store import MOST_BYTES, ORDER, STORES, store_of

_log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Retention:
    """Which finished runs are kept: those that are both young and among the last ones.

    Attributes:
        runs: how many of the last runs, at least 1.
        days: for how long.
    """

    runs: int
    days: float

    def __post_init__(self) -> None:
        if self.runs < 1 or self.days <= 0:
            raise ValueError(
                f"keep at least one run, for more than 0 days; got {self.runs} and {self.days:g}"
            )

    def expired(self, ended: Mapping[Path, float], now: float) -> list[Path]:
        """The folders to remove, given when each run ended; Unix times."""
        last = sorted(ended, key=lambda folder: ended[folder], reverse=True)
        oldest = now - self.days * _DAY_SECONDS
        return [folder for place, folder in enumerate(last) if place >= self.runs or ended[folder] < oldest]


def sweep(workspace: Path, running: Collection[str], retention: Retention) -> list[str]:
    """Remove the run folders in ``workspace`` that ``retention`` does not keep; return their job ids.

    Args:
        workspace: a run's folder bears its job id, a UUID; nothing else is touched.
        running: job ids that must stay.
        retention: which of the others are kept.
    """
    ended = {folder: _changed(folder) for folder in _run_folders(workspace) if folder.name not in running}
    return _remove(retention.expired(ended, time.time()), "old run folder")


def sweep_stores(workspace: Path, running: Collection[str], over: Collection[str], days: float) -> list[str]:
    """Remove the stores of runs that are over, and those that have not changed for days; return their names.

    Args:
        workspace: the participant's.
        running: ids of jobs, whose stores stay.
        over: names of the stores of runs that get no further attempt.
        days: for how long the others are kept.
    """
    orders = (file for job in running for file in (workspace / job).glob(f"app_*/{ORDER}"))
    # the job owns its folder: a longer file there is none that was let in
    used = {store_of(workspace, file.parents[1]) for file in orders if file.stat().st_size <= MOST_BYTES}
    oldest = time.time() - days * _DAY_SECONDS
    unused = set((workspace / STORES).glob("*")) - used
    return _remove([store for store in unused if store.name in over or _last_change(store) < oldest], "store")


def _remove(folders: Iterable[Path], what: str) -> list[str]:
    removed = []
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            _log.warning("cannot remove the %s %s: %s", what, folder, error)
        else:
            removed.append(folder.name)
    if removed:
        _log.info("removed %d %ss", len(removed), what)
    return removed


def _last_change(store: Path) -> float:
    return max(path.lstat().st_mtime for path in [store, *store.rglob("*")])


def _run_folders(workspace: Path) -> list[Path]:
    return [
        folder
        for folder in workspace.iterdir()
        if _is_uuid(folder.name) and folder.is_dir() and not folder.is_symlink()
    ]


def _is_uuid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _changed(folder: Path) -> float:
    # a run writes its logs directly in its folder until it ends
    return max(path.lstat().st_mtime for path in [folder, *folder.iterdir()])
