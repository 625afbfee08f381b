"""The final state of a run, as sites report it and as the server writes it."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from flaremesh.metrics.names import RunState

RUN_FOLDER: Final = "flaremesh"
"""Folder in a job's run directory, at every site and at the server, that holds what a run leaves behind."""


@dataclass
class SiteOutcome:
    """One site's part of the result.

    Attributes:
        iterations: how many it finished.
        metrics: of its last evaluation.
        seconds: of its loop, wall clock; None, and no bytes, of a site that did not finish.
        sent_bytes, received_bytes: payload by peer.
        links: by out-neighbour, ``direct`` or ``relay``: what carried the messages in the end.
        history: records as in history.jsonl, thinned; the site keeps all of them.
    """

    iterations: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    sent_bytes: dict[str, int] = field(default_factory=dict)
    received_bytes: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class RunOutcome:
    """What result.json holds; ``graph`` has one mixing matrix per phase, ``seconds`` are wall clock."""

    run_id: str
    name: str
    outcome: RunState
    reason: str | None
    algorithm: str | None
    topology: str | None
    iterations: int
    seconds: float
    predicted_contraction: float | None
    sites: dict[str, SiteOutcome]
    graph: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the thinned histories stand apart from the figures under ``histories``."""
        document = asdict(self)
        document["histories"] = {name: site.pop("history") for name, site in document["sites"].items()}
        return document
