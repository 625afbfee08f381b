"""The runs that a site has let in, each of which it lets in once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime

from flaremesh import atomic
from flaremesh.p2p.gate.order import MOST_HOURS, Order
from flaremesh.p2p.gate.request import Refused
from flaremesh.record import RecordError, Schema

ADMITTED: Final = "gate/admitted.json"
"""Its place in a site's workspace."""

_MOST = 10_000


@dataclass(frozen=True)
class _Runs:
    runs: Mapping[str, AwareDatetime] = field(default_factory=dict)
    """When the order of each was written."""


_RECORD: Final[Schema[_Runs]] = Schema(_Runs, "the list of runs that were let in")


class Admitted:
    """Remembers runs for as long as their orders are young enough to be shown again.

    Args:
        workspace: of the site.
    """

    def __init__(self, workspace: Path):
        self._file = workspace / ADMITTED

    def check(self, order: Order, now: datetime) -> Mapping[str, datetime]:
        """The runs that were let in lately, of which this may not be one.

        Raises:
            Refused: it was let in before, or nobody can tell.
        """
        oldest = now - timedelta(hours=MOST_HOURS)
        runs = {run: at for run, at in self._runs().items() if at >= oldest}
        if order.run in runs:
            raise Refused("this run was let in before, and a signed job is good for one run: export it again")
        if len(runs) >= _MOST:
            raise Refused(f"more than {_MOST} runs within {MOST_HOURS} hours")
        return runs

    def add(self, order: Order, now: datetime) -> None:
        """Let a run in; this is known also after a restart.

        Raises:
            Refused: as `check`.
        """
        runs = {**self.check(order, now), order.run: order.at}
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        atomic.write(self._file, _RECORD.json(_Runs(runs)) + "\n", durable=True)

    def _runs(self) -> Mapping[str, datetime]:
        try:
            return _RECORD.read(self._file.read_bytes(), self._file).runs
        except FileNotFoundError:
            return {}
        except (RecordError, OSError):
            raise Refused(
                f"{ADMITTED} in the site's workspace is damaged, so that nobody can tell whether this "
                "run was let in before: the site's admin may remove it"
            ) from None
