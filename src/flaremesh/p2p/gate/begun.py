"""The runs that have begun at a site: each begins once, so that a signed job cannot be replayed."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime

from flaremesh import atomic
from flaremesh.p2p.gate.audit import GATE_FOLDER
from flaremesh.p2p.gate.order import MOST_HOURS, Order
from flaremesh.p2p.gate.request import Refused
from flaremesh.record import RecordError, Schema

BEGUN: Final = f"{GATE_FOLDER}/begun.json"
"""Its place in a site's workspace."""

_MOST = 10_000
_LOCK = threading.Lock()  # NVFlare answers the server in several threads


@dataclass(frozen=True)
class _Runs:
    runs: Mapping[str, AwareDatetime] = field(default_factory=dict)
    """When the order of each was written."""


_RECORD: Final[Schema[_Runs]] = Schema(_Runs, "the list of runs that have begun")


class Begun:
    """Remembers runs for as long as their orders are young enough to be shown again.

    Args:
        workspace: of the site.
    """

    def __init__(self, workspace: Path):
        self._file = workspace / BEGUN

    def check(self, order: Order) -> None:
        """Check that a run has not begun before.

        Raises:
            Refused: it has, or nobody can tell.
        """
        if order.run in self._runs():
            raise Refused("this run has begun before, and a signed job is good for one run: export it again")

    def add(self, order: Order, now: datetime) -> None:
        """Let a run begin; this is known also after a restart.

        Raises:
            Refused: it has begun before, or nobody can tell.
        """
        with _LOCK:
            self.check(order)
            oldest = now - timedelta(hours=MOST_HOURS)
            runs = {run: at for run, at in self._runs().items() if at >= oldest}
            if len(runs) >= _MOST:
                raise Refused(f"more than {_MOST} runs within {MOST_HOURS} hours")
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            runs[order.run] = order.at
            atomic.write(self._file, _RECORD.json(_Runs(runs)) + "\n", durable=True)

    def _runs(self) -> Mapping[str, datetime]:
        try:
            return _RECORD.read(self._file.read_bytes(), self._file).runs
        except FileNotFoundError:
            return {}
        except (RecordError, OSError):
            raise Refused(
                f"{BEGUN} in the site's workspace is damaged, so that nobody can tell whether this "
                "run has begun before: the site's admin may remove it"
            ) from None
