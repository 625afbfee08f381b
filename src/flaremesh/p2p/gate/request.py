"""What a run asks of a site, as its gate has found it signed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from flaremesh.topology.links import LinkMode


@dataclass(frozen=True)
class RunRequest:
    """A run that wants to begin at this site.

    Attributes:
        run: id of the run, made by the submitter.
        job: NVFlare's id of the job.
        mesh: name of the mesh.
        submitter: who signed the job: the name in the certificate.
        org: the submitter's organisation.
        role: the submitter's role.
        algorithm: name, or dotted path, of the algorithm.
        problem: dotted path of the problem's class, or the job's file that holds it.
        code: SHA-256, in hexadecimal, of each file and module beside flaremesh's own that the run brings or
            names.
        sites: the run's sites.
        peers: those with which this site shares edges.
        links: by which links the run's messages may travel.
        at: when it was submitted.
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
