"""What a target is: a place where a mesh's server and sites run."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias, TypeVar

from flaremesh.errors import FlaremeshError

Address: TypeAlias = tuple[str, int]
"""Host and port."""

AT_ONCE: Final = 32
"""The most participants that are dealt with at the same time."""

T = TypeVar("T")
U = TypeVar("U")

MESH_LABEL = "flaremesh.dev/mesh"
"""Label, with the mesh's name, of all that a mesh has in Docker and on Kubernetes."""


class DeployError(FlaremeshError):
    """A mesh cannot be started, reached or stopped; the message names the participant and what to do."""


class TooLong(DeployError):
    """A participant answers more than it can have to say."""


MOST_ANSWER: Final = 32 << 20
"""So many bytes may an agent's answer have."""


@dataclass(frozen=True)
class Participant:
    """The server or a site as its target sees it.

    Attributes:
        name: ``server`` or the site's name.
        running: whether there is a process, container or pod.
        ready: whether it may take part in a run.
        place: where it runs, e.g. ``pid 4711``.
        metrics: URL of its metrics, None while it serves none.
        elsewhere: whether it may be on another cluster; only the server knows whether it runs there.
    """

    name: str
    running: bool
    ready: bool
    place: str
    metrics: str | None
    elsewhere: bool = False


def threads(cores: int, sites: int) -> dict[str, str]:
    """Environment of a site that shares a machine: without it, torch would take all cores at every site."""
    return {"OMP_NUM_THREADS": str(max(1, cores // sites))}


def at_once(act: Callable[[T], U], on: Iterable[T], most: int = AT_ONCE) -> list[U]:
    """Call ``act`` on many arguments at the same time, and return its results in order.

    The first error is raised once all calls that have begun have ended.

    Args:
        act: the function.
        on: its arguments, one per call.
        most: how many calls at the same time.
    """
    with ThreadPoolExecutor(most) as pool:
        return list(pool.map(act, on))


def ask_each(
    target: "Target", participants: Sequence[Participant], path: str, read: Callable[[bytes], T]
) -> dict[str, T | None]:
    """What the agents of the participants answer to a GET of ``path``, by name.

    Args:
        target: where they run.
        participants: those to ask, all at once.
        path: of the URL.
        read: parses an answer, or raises ValueError.

    Returns:
        what ``read`` returned; None for those that do not run, give no answer or one that cannot be read.
    """

    def answer(participant: Participant) -> T | None:
        told = target.ask(participant.name, path) if participant.running else None
        try:
            return read(told) if told else None
        except ValueError:
            return None

    names = (participant.name for participant in participants)
    return dict(zip(names, at_once(answer, participants), strict=True))


class Target(Protocol):
    """Runs the participants of one mesh; each method may be called again at any time."""

    def up(self, timeout: float) -> list[str]:
        """Start what does not run, and wait until all is ready.

        Args:
            timeout: seconds until everything must be ready.

        Returns:
            names of the participants that had to be started.

        Raises:
            DeployError: a participant does not come up; what this call started is stopped again.
        """

    def down(self) -> list[str]:
        """Stop everything that runs, job processes included; return the names of what ran."""

    def participants(self) -> list[Participant]:
        """The server first, then the sites in the order of the topology file."""

    start_seconds: float
    """Default time limit of `up`, pulls of images included."""

    def fetch(self, participant: str, run_id: str, folder: Path) -> bool:
        """Copy what a participant keeps of a run; False where there is nothing that can be reached.

        Args:
            participant: its name.
            run_id: id of the run.
            folder: the copy; must not exist.

        Raises:
            DeployError, OSError: the copy failed; a part of it may be there.
        """

    def server(self) -> AbstractContextManager[Address]:
        """The address at which this machine reaches the server while the context lasts.

        Raises:
            DeployError: it does not.
        """

    def ask(self, participant: str, path: str) -> bytes | None:
        """What a participant's agent answers to a GET of ``path``.

        None if it does not with status 200, or in more than MOST_ANSWER bytes.
        """

    def end_run(self, run_id: str, timeout: float) -> None:
        """Wait until no process works on a run; after ``timeout`` seconds end those that still do."""
