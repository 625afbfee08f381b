"""A run that asks to be let in, as the site finds it in the signed app and not as the server tells it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from flaremesh.errors import FlaremeshError
from flaremesh.record import Schema
from flaremesh.topology.links import LinkKind, LinkMode
from flaremesh.topology.schema import OnLoss, Privacy

_NAME: Final = re.compile(r"[\w.@+-]{1,200}", re.ASCII)


class Refused(FlaremeshError):
    """A site does not let a run in; the message says why, and what to do, to who submitted it.

    Attributes:
        request: what the run asked, where that is known.
    """

    exit_code = 2
    request: "RunRequest | None" = None


@dataclass(frozen=True)
class RunRequest:
    """A run that asks to be let in.

    Attributes:
        run: its id, which the submitter made.
        job: NVFlare's id, which the server made.
        mesh: its name; empty where the order says none.
        submitter: e-mail address in the signer's certificate.
        org: the submitter's organisation.
        role: the submitter's role.
        algorithm: its name or class; of an executor with an algorithm of its own, the executor's class.
        problem: its class, or the file that brings it; empty where the executor has its own.
        code: SHA-256 in hexadecimal of each file of code in the job and of each module of an installed
            package that the job names.
        sites: all sites of the run.
        peers: those with which this site shares an edge.
        links: how edges may travel.
        carriers: by which those of this site may, as far as its kit allows.
        privacy: what keeps the site's data from others.
        at: when the order was written.
        order: SHA-256 of the order, and so of all files of the app, also of those with arguments.
        on_loss: ``fail`` if the run has no further attempts when it loses a participant.
        quorum: so many of the sites may be left of it in the end; None where all take part.
        continues: id of the run whose checkpoints it takes over; empty for none.
    """

    run: str
    job: str
    mesh: str
    submitter: str
    org: str
    role: str
    algorithm: str
    problem: str
    code: Mapping[str, str]
    sites: tuple[str, ...]
    peers: tuple[str, ...]
    links: LinkMode
    at: datetime
    order: str = ""
    on_loss: OnLoss = "fail"
    quorum: int | None = None
    continues: str = ""
    carriers: tuple[LinkKind, ...] = ()
    privacy: Privacy = field(default_factory=Privacy)


REQUEST: Final[Schema[RunRequest]] = Schema(RunRequest, "a run that asks to be let in")
"""How the audit log has it."""


def quoted(value: object) -> str:
    """A value of a stranger's as a reason may quote it: a plain name as it is, anything else not at all."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    return "what is no plain name"
