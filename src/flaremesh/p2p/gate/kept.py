"""Records that a site's gate keeps in the site's workspace, out of the reach of runs."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from flaremesh import atomic
from flaremesh.p2p.gate.request import Refused
from flaremesh.record import RecordError, Schema

T = TypeVar("T")


class KeptRecord(Generic[T]):
    """A record in a file: whoever changes it does so alone, and the change outlives a restart.

    Args:
        workspace: the site's.
        place: of the file in it.
        schema: of the record.
        empty: what it is before anybody has written it.
        damaged: what a damaged one means, and what to do.
    """

    def __init__(self, workspace: Path, place: str, schema: Schema[T], empty: T, damaged: str):
        self._file = workspace / place
        self._lock = self._file.with_suffix(".lock")
        self._schema, self._empty = schema, empty
        self._damaged = f"{place} in the site's workspace is damaged, {damaged}"

    def read(self) -> T:
        """The record.

        Raises:
            Refused: it is damaged.
        """
        try:
            return self._schema.read(self._file.read_bytes(), self._file)
        except FileNotFoundError:
            return self._empty
        except (RecordError, OSError):
            raise Refused(self._damaged) from None

    def write(self, record: T) -> None:
        """Replace the record; raises OSError."""
        atomic.write(self._file, self._schema.json(record, indent=1) + "\n", durable=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with it: NVFlare answers the server in several threads, and a person may decide meanwhile."""
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        with self._lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
