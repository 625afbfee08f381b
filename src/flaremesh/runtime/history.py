"""The history of a run at one site: ``history.jsonl``, one record a line."""

import hashlib
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self, TypeAlias, TypeVar

from pydantic import Discriminator, Tag
from typing_extensions import override

from flaremesh import atomic
from flaremesh.metrics.sink import Evaluation, Iteration, Logged, MetricsSink, Norms
from flaremesh.record import RecordError, Schema

HISTORY: Final = "history.jsonl"
"""Name of the file, in a run's folder at its site and in the copies of that folder."""

T = TypeVar("T")


def _kind(record: object) -> str:
    if isinstance(record, Mapping):
        if "logged" in record:
            return "logged"
        return "evaluation" if record.keys() & {"metrics", "evaluation"} else "iteration"
    if isinstance(record, Logged):
        return "logged"
    return "evaluation" if isinstance(record, Evaluation) else "iteration"


Record: TypeAlias = Annotated[
    Annotated[Iteration, Tag("iteration")]
    | Annotated[Evaluation, Tag("evaluation")]
    | Annotated[Logged, Tag("logged")],
    Discriminator(_kind),
]
"""A line of a history: an evaluation where it has ``metrics``, what was ``logged``, else an iteration."""

_log = logging.getLogger(__name__)

_WRITE_SECONDS = 0.02  # between two writes, because writing a short line costs more time than making it
_RETRY_SECONDS = 1.0
_AT_ONCE = 256  # records: so many are made into lines in vain while there is no room
_RECORD: Schema[Record] = Schema(Record, "a record of a history")


class History(MetricsSink):
    """A metrics sink that keeps every record and, given a path, writes each as one line of JSON.

    Use it as a context manager, so that the file is complete however the run ends. Where the process is
    killed, the file lacks what came within a few hundredths of a second of the last line in it. Where the
    volume is full, it lacks what came since, until there is room.

    Args:
        path: of the file; None for none.
        earlier: records that it begins with.

    Attributes:
        iterations: records of the iterations.
        evaluations: records of the evaluations.
        log: what the site's training has logged itself.

    Raises:
        OSError: there can be no such file; or it is not complete, at the end of a context without an error.
    """

    def __init__(self, path: Path | None = None, earlier: Iterable[Record] = ()):
        self.iterations: list[Iteration] = []
        self.evaluations: list[Evaluation] = []
        self.log: list[Logged] = []
        self._file = path.open("wb", buffering=0) if path else None
        self._unwritten: list[Record] = []
        self._bytes = 0  # of the file that are whole lines
        self._full = False
        self._next = -math.inf  # when it is written again
        for record in earlier:
            self.add(record)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file; a last line that the end of the site's process cut off is dropped.

        Raises:
            RecordError: a line is no record.
        """
        history = cls()
        lines = path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                history.add(_RECORD.read(line, f"{path}, line {number},"))
            except RecordError:
                if line.endswith(b"\n"):
                    raise
        return history

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.complete()
        except OSError:
            if error is None:  # else that one ended the run
                raise
        finally:
            if self._file:
                self._file.close()

    @property
    def last_iteration(self) -> int:
        """How many iterations are done."""
        return self.iterations[-1].iteration if self.iterations else 0

    @property
    def last_metrics(self) -> dict[str, float]:
        """Metrics of the last evaluation, {} before the first."""
        return dict(self.evaluations[-1].metrics) if self.evaluations else {}

    def add(self, record: Record) -> None:
        """Keep a record, and write it where there is a file."""
        if isinstance(record, Evaluation):
            self.evaluations.append(record)
        elif isinstance(record, Logged):
            self.log.append(record)
        else:
            self.iterations.append(record)
        if self._file:
            self._unwritten.append(record)
            if time.monotonic() >= self._next:
                self._try_to_write()

    def complete(self) -> None:
        """Write what the file lacks.

        Raises:
            OSError: it cannot be written.
        """
        written = 0
        try:
            while self._file and (some := self._unwritten[written : written + _AT_ONCE]):
                lines = "".join(f"{_RECORD.json(record)}\n" for record in some).encode()
                self._file.seek(self._bytes)  # over a part of them that was the last to find room
                left = memoryview(lines)
                while left:  # an unbuffered file may take a part
                    left = left[self._file.write(left) :]
                written, self._bytes = written + len(some), self._bytes + len(lines)
        finally:
            del self._unwritten[:written]

    def _try_to_write(self) -> None:
        try:
            self.complete()
        except OSError as error:  # the run does not depend on the file
            if not self._full:
                _log.warning("the history is kept in memory until it can be written: %s", error)
            self._full, wait = True, _RETRY_SECONDS
        else:
            if self._full:
                _log.info("the history is written again")
            self._full, wait = False, _WRITE_SECONDS
        self._next = time.monotonic() + wait

    @override
    def iteration(self, record: Iteration) -> None:
        self.add(record)

    @override
    def evaluation(self, record: Evaluation) -> None:
        self.add(record)

    @override
    def logged(self, record: Logged) -> None:
        self.add(record)

    @override
    def norms(self, record: Norms) -> None:
        """Not kept."""

    def thinned(self, limit: int) -> list[Record]:
        """At most ``limit`` iterations and ``limit`` evaluations, in the order of their iterations.

        What is left of both numbers is there for what was logged.
        """
        kept: list[Record] = [*evenly_spaced(self.iterations, limit), *evenly_spaced(self.evaluations, limit)]
        return _ordered(kept, _thinned(self.log, 2 * limit - len(kept)))

    def ordered(self) -> list[Record]:
        """All records, in the order of their iterations."""
        return _ordered(self.iterations, self.evaluations, self.log)


def _ordered(*records: Iterable[Record]) -> list[Record]:
    return sorted(chain(*records), key=lambda record: record.iteration)


def _thinned(log: Iterable[Logged], limit: int) -> list[Logged]:
    """At most ``limit`` of the log, and of what is logged at the same steps as many each."""
    together = defaultdict[frozenset[str], list[Logged]](list)
    for record in log:
        together[frozenset(record.logged)].append(record)
    some = [*together.values()][: limit // 2]
    return [record for each in some for record in evenly_spaced(each, limit // len(some))]


def evenly_spaced(records: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` (two or more) of the records, the first and the last among them."""
    if len(records) <= limit:
        return list(records)
    step = (len(records) - 1) / (limit - 1)
    return [records[round(i * step)] for i in range(limit)]


class HistoryFile:
    """A history that outlives the process that writes it, and of which a beginning can be asked for.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self._path = path
        self._known = False  # whether the file is the one that this object has written last
        self._records = self._bytes = 0
        self._digest = hashlib.sha256()

    def extend_to(self, records: Sequence[Record]) -> dict[str, Any]:
        """Make the file that of ``records``, which begin with those of the last call; it writes the rest.

        Returns:
            The arguments with which ``beginning`` reads them.

        Raises:
            OSError: it cannot be written.
        """
        known, self._known = self._known, False
        if not known:
            self._records, self._bytes, self._digest = 0, 0, hashlib.sha256()
        added = "".join(f"{_RECORD.json(record)}\n" for record in records[self._records :]).encode()
        if known:
            self._append(added)
        else:
            atomic.write(self._path, added, durable=True)
        self._digest.update(added)
        self._records, self._bytes, self._known = len(records), self._bytes + len(added), True
        return {"records": self._records, "bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def beginning(self, *, records: int, bytes: int, sha256: str) -> tuple[Record, ...]:
        """So many records, or bytes, of the file.

        Raises:
            ValueError: they are not those of which the digest was taken.
            RecordError: they are no records.
            OSError: the file cannot be read.
        """
        with self._path.open("rb") as file:
            content = file.read(min(bytes, self._path.stat().st_size))
        lines = content.splitlines()
        if len(lines) != records or hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{self._path.name} is another one")
        return tuple(_RECORD.read(line, self._path) for line in lines)

    def _append(self, added: bytes) -> None:
        with self._path.open("r+b") as file:
            file.seek(self._bytes)
            file.write(added)
            file.flush()
            os.fsync(file.fileno())
