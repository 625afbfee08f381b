"""Removes the folders of old runs, which NVFlare keeps for ever."""

import logging
import shutil
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

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
    removed = []
    for folder in retention.expired(ended, time.time()):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            _log.warning("cannot remove the old run folder %s: %s", folder, error)
        else:
            removed.append(folder.name)
    if removed:
        _log.info("removed %d old run folders", len(removed))
    return removed


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
