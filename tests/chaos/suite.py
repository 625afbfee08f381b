"""Runs with faults, and whether each becomes what is promised."""

import os
import time
from collections.abc import Sequence
from random import Random, SystemRandom
from typing import Any

from faults import Fault, Strike
from running import EVERY, Kind, Running
from running_mesh import START_SECONDS, RunningMesh
from table import Row, Table

from undisturbed import left_behind

SEED = int(os.environ.get("CHAOS_SEED") or SystemRandom().randrange(10**6))
KEPT = "as promised"


class Suite:
    """Disturbed runs of a mesh, each compared with one of its kind that nobody disturbed.

    Args:
        mesh: that is up.
        table: of what became of the faults.
        timed: a recovery that takes longer than its limit breaks a promise. The limits are those of a machine
            that does nothing else.
    """

    def __init__(self, mesh: RunningMesh, table: Table, timed: bool = True):
        self._mesh = mesh
        self._timed = timed
        self.table = table
        self._undisturbed: dict[Kind, dict[str, Any]] = {}

    def disturb(self, kind: Kind, faults: Sequence[Fault], seed: int, number: int = 0) -> None:
        """A run that faults strike one after another, each after the next checkpoint.

        Raises:
            AssertionError: one has not become what is promised.
        """
        self._mesh.target.up(START_SECONDS)  # a run before may have failed with somebody down
        if kind not in self._undisturbed:
            run = self._run(kind, "undisturbed")
            self._undisturbed[kind] = self._left_behind(run)
        random = Random(f"{seed} {number}")
        run, rows = self._run(kind, "disturbed"), []
        try:
            for fault in faults:
                row = Row(fault.title, kind.algorithm, kind.wire, seed, number, 0, fault.promise, fault.limit)
                rows.append(row)
                strike = _strike(run, fault, random, row)
                row.outcome = _outcome(row, fault, strike, self._timed)
            if self._left_behind(run) != self._undisturbed[kind]:
                for row in rows:
                    row.outcome += "; the result of the run is another one"
        except BaseException as error:
            rows[-1].outcome = str(error).splitlines()[0] if str(error) else type(error).__name__
            error.add_note(f"{rows[-1].fault}: run {number} of CHAOS_SEED={seed}, {kind}")
            raise
        finally:
            run.abort()
            self.table.add(rows)
        broken = [row for row in rows if row.outcome != KEPT]
        assert not broken, broken

    def _run(self, kind: Kind, name: str) -> Running:
        return Running(self._mesh, kind.topology(self._mesh.topology), f"{name}-{kind}")

    def _left_behind(self, run: Running) -> dict[str, Any]:
        result = run.result()
        return left_behind(self._mesh.folder / "runs" / result.run_id, result.sites)


def _strike(run: Running, fault: Fault, random: Random, row: Row) -> Strike:
    site = run.sites[0]
    # four losses without a checkpoint between them would end the run
    newest = run.iteration(site) // EVERY * EVERY
    row.iteration = newest + EVERY + random.randrange(3, EVERY)  # it takes a moment to be written
    run.wait(lambda: run.iteration(site) >= row.iteration, f"iteration {row.iteration}, before {row.fault}")
    losses, begun = len(run.losses()), len(run.reached(site))
    strike = fault.strike(run, random)
    row.iteration, row.remark = strike.iteration, strike.remark
    row.mending_seconds = (strike.mended or strike.struck) - strike.struck

    def further() -> bool:
        if run.has_finished():  # without a server, sites go on to the end
            return True
        *earlier, last = run.reached(strike.site)
        if fault.attempts and len(earlier) < begun:
            return False  # where the server's part is killed, sites go on until they hear of it
        known = 0 if fault.anew else max(strike.iteration + 2, *earlier, 0)  # what is on its way makes two
        return last > known

    run.wait(further, f"an iteration after {row.fault} at iteration {row.iteration}")
    row.recovery_seconds = time.monotonic() - strike.struck
    told = run.losses()[losses:]
    row.attempts = len(told)
    row.told_seconds = told[0] - strike.struck if told else None
    if told and (submitted := run.submitted()):
        row.began_at, row.ending_seconds = run.began_at(), submitted - strike.struck
    row.load = os.getloadavg()[0]
    return strike


def _outcome(row: Row, fault: Fault, strike: Strike, timed: bool) -> str:
    assert row.recovery_seconds is not None
    if row.attempts != fault.attempts:
        return f"{row.attempts} further attempts instead of {fault.attempts}"
    if strike.begins and row.began_at is not None:
        least, most = strike.begins
        if not least <= row.began_at <= most:
            return f"began at iteration {row.began_at} instead of {least} to {most}"
    seconds = row.recovery_seconds - row.mending_seconds
    if timed and seconds > fault.limit:
        return f"{seconds:.1f} s instead of {fault.limit:g}"
    return KEPT
