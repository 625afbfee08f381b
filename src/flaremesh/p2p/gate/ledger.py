"""What all runs together have told of a site's data: a ledger that outlives them.

A run's whole privacy budget is booked when it is let in, and what it has not spent is given back when its
process has told so. One that was killed, or tells nothing, has spent all of it. A job's process neither reads
nor writes the ledger.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import AwareDatetime, Field

from flaremesh.p2p.gate.audit import GATE_FOLDER
from flaremesh.p2p.gate.kept import KeptRecord
from flaremesh.p2p.gate.policy import Policy
from flaremesh.p2p.gate.request import Refused, RunRequest
from flaremesh.privacy.accounting import PrivacyError, epsilon, most_rdp
from flaremesh.record import Schema

LEDGER: Final = f"{GATE_FOLDER}/ledger.json"
"""Its place in a site's workspace."""

_Rdp = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Entry:
    """What a run may spend, or has spent.

    Attributes:
        run: its id.
        at: when it was let in.
        data: what the site calls the data that it has then.
        epsilon, delta: of the run's budget.
        rdp: its Rényi divergence of order α, divided by α: that of the whole budget until the run has ended.
        settled: whether the run's process has told what it has spent.
    """

    run: str
    at: AwareDatetime
    data: str
    epsilon: float
    delta: float
    rdp: _Rdp
    settled: bool = False


@dataclass(frozen=True)
class _Entries:
    jobs: Mapping[str, Entry] = field(default_factory=dict)


_RECORD: Final[Schema[_Entries]] = Schema(_Entries, "the ledger of a site's data")


class Ledger:
    """The ledger of a site.

    Args:
        workspace: the site's.
    """

    def __init__(self, workspace: Path):
        self._record = KeptRecord(
            workspace,
            LEDGER,
            _RECORD,
            _Entries(),
            "so that nobody can tell what runs have spent of its data: the site's admin must put it right",
        )

    def check(self, request: RunRequest, policy: Policy) -> None:
        """Hold a run to what is left by the site's policy.

        Raises:
            Refused: its budget does not fit, or nobody can tell.
        """
        self._entry(request, policy, request.at)

    def book(self, request: RunRequest, policy: Policy, now: datetime) -> None:
        """Book the whole budget of a run that begins; this is known also after a restart.

        Raises:
            Refused: as `check`.
        """
        with self._record.locked():
            entry = self._entry(request, policy, now)
            if entry is not None:
                self._record.write(_Entries({**self._record.read().jobs, request.job: entry}))

    def settle(self, job: str, rdp: float) -> None:
        """Give back what a job's run has not spent.

        Args:
            job: NVFlare's id.
            rdp: what it has spent, as its own process tells it; more than was booked counts as all of it.

        Raises:
            Refused: the ledger is damaged.
            OSError: it cannot be written.
        """
        with self._record.locked():
            entries = self._record.read().jobs
            if job in entries and not entries[job].settled:
                entry = entries[job]
                spent = replace(entry, rdp=min(entry.rdp, max(0.0, rdp)), settled=True)
                self._record.write(_Entries({**entries, job: spent}))

    def spent(self, data: str, delta: float) -> float:
        """ε at δ of all runs on the data.

        Raises:
            Refused: the ledger is damaged.
        """
        return epsilon(
            sum(entry.rdp for entry in self._record.read().jobs.values() if entry.data == data), delta
        )

    def _entry(self, request: RunRequest, policy: Policy, now: datetime) -> Entry | None:
        """What a run would be booked as; None where it has no budget."""
        asked, rules = request.privacy, policy.privacy
        if asked.epsilon is None or asked.delta is None:
            return None
        if reason := asked.unsoundness(asynchronous=False, phases=1, resumable=request.on_loss != "fail"):
            raise Refused(f"privacy: {reason}")
        data = rules.data
        try:
            rdp = most_rdp(asked.epsilon, asked.delta)
        except PrivacyError as error:
            raise Refused(f"privacy: {error}") from None
        if (budget := rules.budget) is not None:
            earlier = [entry.rdp for entry in self._record.read().jobs.values() if entry.data == data]
            total = epsilon(sum(earlier) + rdp, budget.delta)
            if total > budget.epsilon * (1 + 1e-9):
                spent = epsilon(sum(earlier), budget.delta)
                most = f"{budget.epsilon:g} (δ {budget.delta:g}) is the most"
                raise Refused(
                    f"privacy.budget: {len(earlier)} runs have spent ε {spent:.3g} of this site's data, and "
                    f"with this one it would be {total:.3g}; {most}"
                )
        return Entry(request.run, now, data, asked.epsilon, asked.delta, rdp)
