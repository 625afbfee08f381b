"""The result of a run: what sites reply, the server keeps as ``result.json``, and the admin reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from flaremesh.metrics.names import RunState
from flaremesh.metrics.sink import Metrics
from flaremesh.record import Name, Schema, Seconds, Text, Whole, at_most
from flaremesh.runtime.history import Record
from flaremesh.runtime.until import Ending
from flaremesh.topology.links import Carried
from flaremesh.topology.schema import MOST_SITES

RUN_FOLDER: Final = "flaremesh"
"""Folder in a job's run directory, at every site and at the server, that holds what a run leaves behind."""

RESULT: Final = "result.json"
"""Name of the server's file in it, and of the copy in the admin's run folder."""

MODEL: Final = "model.safetensors"
"""Name of a site's model in it, and in the site's folder of the admin's run folder."""

BEST_MODEL: Final = "best.safetensors"
"""Name of what its model was when the run was best, beside it."""

MOST_RECORDS: Final = 1000
"""So many records may a history have that goes to the server."""

Links: TypeAlias = Annotated[
    Mapping[Name, Annotated[str, Field(pattern=f"^({'|'.join(Carried)})$")]], at_most(MOST_SITES)
]
"""How the messages to each out-neighbour travel."""

Bytes: TypeAlias = Annotated[Mapping[Name, Whole], at_most(MOST_SITES)]
"""Bytes by neighbour."""

Weight: TypeAlias = Annotated[float, Field(ge=-1e3, le=1e3)]
"""An entry of a mixing matrix."""

Row: TypeAlias = Annotated[list[Weight], Field(fail_fast=True)]
"""A row of a mixing matrix."""

Outcome: TypeAlias = Literal[RunState.FINISHED, RunState.FAILED, RunState.ABORTED, "unfinished"]
"""How a run ended; ``unfinished`` where no result is known yet."""


@dataclass(frozen=True)
class SiteResult:
    """One site at the end of a run.

    Attributes:
        iterations: how many it finished.
        metrics: of its last evaluation, by name.
        seconds: of its loop, wall clock; None for a site that did not finish.
        sent_bytes, received_bytes: payload by out- and by in-neighbour; empty for a site that did not finish.
        links: how the messages to each out-neighbour travelled in the end, in the words of Carried.
        history: its history, thinned; empty where the site's whole history stands beside the result.
        ending: what ended the run at all sites before its last iteration; None if nothing did.
        epsilon: ε that it has spent of the site's data; None without a privacy budget.
    """

    iterations: Whole = 0
    metrics: Metrics = field(default_factory=dict)
    seconds: Seconds | None = None
    sent_bytes: Bytes = field(default_factory=dict)
    received_bytes: Bytes = field(default_factory=dict)
    links: Links = field(default_factory=dict)
    history: Annotated[list[Record], Field(max_length=MOST_RECORDS, fail_fast=True)] = field(
        default_factory=list
    )
    ending: Ending | None = None
    epsilon: Annotated[float, Field(ge=0, le=1e9)] | None = None


@dataclass(frozen=True)
class Members:
    """Who took part in a run, from an iteration on.

    Attributes:
        since: iterations that were done before.
        sites: their names, sorted.
    """

    since: Whole
    sites: Annotated[tuple[Name, ...], Field(max_length=MOST_SITES)]


@dataclass(frozen=True)
class Absence:
    """A site that had taken part did not, from one iteration on to another; None where it is not back."""

    site: str
    since: int
    until: int | None


def absences(members: Sequence[Members]) -> list[Absence]:
    """Who was away, in the order in which they left."""
    found: list[Absence] = []
    for number, (before, after) in enumerate(pairwise(members), start=1):
        for site in before.sites:
            if site not in after.sites:
                back = (later.since for later in members[number:] if site in later.sites)
                found.append(Absence(site, after.since, next(back, None)))
    return found


def missing_of(members: Sequence[Members]) -> dict[str, int]:
    """The sites that took part and then no more, and since which iteration."""
    return {absence.site: absence.since for absence in absences(members) if absence.until is None}


@dataclass(frozen=True)
class Graph:
    """The graph of a run.

    Attributes:
        sites: names in the order of the matrices' rows.
        matrices: one mixing matrix per phase; row i holds the weights with which site i mixes.
    """

    sites: Annotated[list[Name], Field(max_length=MOST_SITES, fail_fast=True)]
    matrices: Annotated[list[Annotated[list[Row], Field(fail_fast=True)]], Field(fail_fast=True)]

    def __post_init__(self) -> None:
        count = len(self.sites)
        if any([len(row) for row in matrix] != [count] * count for matrix in self.matrices):
            raise ValueError(f"a matrix has not {count} rows and columns, one for each site")


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        run_id: id of the run.
        outcome: how it ended.
        name: name of the run, for people.
        reason: why it did not finish; None if it did.
        ended: why it ended before its last iteration, as run.until or run.privacy says; None if it did not.
        lost: it did not finish because a site or an edge was lost, and goes on from its checkpoints.
        algorithm: name of the algorithm.
        topology: name of the mesh.
        iterations: how many were asked for.
        seconds: of the run at the server, wall clock.
        submit_to_result_seconds: from submission until the result was there, on the admin's clock.
        predicted_contraction: factor of the consensus distance per iteration of mixing; None if unknown.
        sites: what is known of every site.
        graph: the sites and their mixing matrices.
        members: who took part, by ranges of iterations, where a run may go on without sites.
        joining: of an attempt that ended for that and goes on: the sites that are back, and take part again.
    """

    run_id: Name
    outcome: Outcome
    name: Name = ""
    reason: Text | None = None
    ended: Text | None = None
    lost: bool = False
    algorithm: Name | None = None
    topology: Name | None = None
    iterations: Whole | None = None
    seconds: Seconds | None = None
    submit_to_result_seconds: Seconds | None = None
    predicted_contraction: float | None = None
    sites: Annotated[Mapping[Name, SiteResult], at_most(MOST_SITES)] = field(default_factory=dict)
    graph: Graph | None = None
    members: Annotated[tuple[Members, ...], Field(max_length=MOST_SITES)] = ()
    joining: Annotated[tuple[Name, ...], Field(max_length=MOST_SITES)] = ()

    @property
    def missing(self) -> dict[str, int]:
        """The sites that took part and then no more, and since which iteration."""
        return missing_of(self.members)


SITE_RESULT: Final = Schema[SiteResult](SiteResult, "the result of a site")
RUN_RESULT: Final = Schema[RunResult](RunResult, "the result of a run")
