"""What a site may do, as its kit says it, signed with the key of the mesh's root.

A run and the server can ask for less, and never for more. The site's own admin can narrow it further, in a
policy of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509

from flaremesh.p2p.nvflare.startup import ROOT
from flaremesh.record import Schema
from flaremesh.signatures import opened
from flaremesh.topology.links import LinkKind

CHARTER: Final = "charter.json"
"""The file in a kit's ``startup``; kits of the server and of admins have one, too."""


@dataclass(frozen=True)
class Peer:
    """A site with which this one may share edges.

    Attributes:
        sends: this site may send to it.
        receives: this site may receive from it.
        carriers: by which an edge to it or from it may travel, best first.
        host: where it may be dialled; None: nowhere.
        ports: inclusive range of ports there; None: none.
    """

    sends: bool
    receives: bool
    carriers: tuple[LinkKind, ...]
    host: str | None = None
    ports: tuple[int, int] | None = None

    def is_at(self, host: str, port: int) -> bool:
        """Whether it may be dialled there."""
        low, high = self.ports or (1, 0)
        return host == self.host and low <= port <= high


@dataclass(frozen=True)
class Code:
    """The code that jobs may run beside flaremesh's own classes.

    Attributes:
        packages: installed packages whose problems and algorithms are allowed.
        files: jobs may bring a problem along as a file.
        sha256: digests, in hexadecimal; where there are any, a file of a job and the module of a class in
            ``packages`` must have one of them.
    """

    packages: tuple[str, ...] = ()
    files: bool = False
    sha256: tuple[str, ...] = ()


@dataclass(frozen=True)
class Charter:
    """What a kit allows.

    Attributes:
        mesh: its name.
        participant: whose kit it is.
        peers: the sites with which this one may share edges, by name; the server is never among them.
        code: the code that it may run.
        revoked: serial numbers of certificates that nobody may use any more, in decimal: JSON's numbers are
            too short for them.
        meet: host and port of the meeting point; None where the mesh has none.
        host: name under which others dial the participant; None where nobody does.
        ports: inclusive range of ports that a run may open there; None: none.
    """

    mesh: str
    participant: str
    peers: Mapping[str, Peer] = field(default_factory=dict)
    code: Code = Code()
    revoked: tuple[str, ...] = ()
    meet: tuple[str, int] | None = None
    host: str | None = None
    ports: tuple[int, int] | None = None


CHARTER_RECORD: Final[Schema[Charter]] = Schema(Charter, "the charter of a kit")


def read(startup: Path) -> Charter:
    """The charter in a kit's folder ``startup``.

    Raises:
        FileNotFoundError: there is none.
        SignatureError: it is not signed by the root in the same folder.
        RecordError: it is none.
        ValueError: the root's certificate is damaged.
    """
    root = x509.load_pem_x509_certificate((startup / ROOT).read_bytes())
    file = startup / CHARTER
    return CHARTER_RECORD.read(opened(file.read_bytes(), root), file)
