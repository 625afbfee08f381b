"""Tickets: who may meet whom in which run, in the words of the mesh's server, which signs them.

A ticket travels with the server's certificate, so that whoever knows the mesh's root can verify it, and needs
to remember nothing. It opens nothing by itself: who shows it must also prove to be one of the two it names.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from flaremesh import signatures
from flaremesh.certificates import CertificateError, Identity, Kind, holder
from flaremesh.meeting.refusal import Reason, Refused
from flaremesh.record import Name, RecordError, Schema, Whole

LIFETIME: Final = timedelta(hours=12)
"""A run whose server is away overnight can still join its pairs again; a site that was removed from the mesh
cannot a day later."""

CLOCK_TOLERANCE: Final = timedelta(minutes=2)
"""So far the clocks of the server and of a meeting point may differ; certificates are backdated for the same
reason."""

TRIAL: Final = "trial"
"""Stands for a run's id where two neighbours try how they meet, while no run goes on."""

MOST_TICKET_BYTES: Final = 8192
"""A longer one is refused; with keys of 2048 bits one has 1800."""


@dataclass(frozen=True)
class Ticket:
    """What a ticket says.

    Attributes:
        mesh: name of the mesh.
        run: id of the run.
        pair: names of the two sites, in order.
        not_after: until when it counts, Unix time in seconds.
    """

    mesh: Name
    run: Name
    pair: tuple[Name, Name]
    not_after: Whole


@dataclass(frozen=True)
class _Envelope:
    """How a ticket travels: the signed document, and the certificate of who signed it, in PEM."""

    ticket: str
    certificate: str


_TICKET: Final = Schema[Ticket](Ticket, "a ticket")
_ENVELOPE: Final = Schema[_Envelope](_Envelope, "a ticket with its certificate")


def mint(
    mesh: str,
    run: str,
    pair: Collection[str],
    key: bytes | rsa.RSAPrivateKey,
    certificate: x509.Certificate,
    lifetime: timedelta = LIFETIME,
) -> bytes:
    """A ticket, as it travels.

    Args:
        mesh: name of the mesh.
        run: id of the run.
        pair: names of the two sites, in any order.
        key: the server's private key; one in PEM takes 50 ms to be read.
        certificate: the server's.
        lifetime: how long it counts from now on.

    Raises:
        SignatureError: it is no RSA key.
        ValueError: a pair is two sites.
    """
    if len(set(pair)) != 2:
        raise ValueError(f"a pair is two sites, not {', '.join(pair)}")
    first, second = sorted(pair)
    over = int((datetime.now(UTC) + lifetime).timestamp())
    document = signatures.sealed(_TICKET.json(Ticket(mesh, run, (first, second), over)), key)
    envelope = _Envelope(document, certificate.public_bytes(Encoding.PEM).decode())
    return _ENVELOPE.json(envelope).encode()


def verified(
    data: bytes, mesh: str, root: x509.Certificate, revoked: Collection[str] = ()
) -> tuple[Ticket, Identity]:
    """What a ticket says, and whose server signed it.

    Args:
        data: the ticket, from anybody.
        mesh: name of the mesh.
        root: certificate of the mesh's root.
        revoked: serial numbers of certificates that count no more, in decimal.

    Raises:
        Refused: it is none, not of this mesh, not signed by its server, or over.
    """
    try:
        envelope = _ENVELOPE.read(data, "somebody", MOST_TICKET_BYTES)
        certificate = x509.load_pem_x509_certificate(envelope.certificate.encode())
        server = _server(certificate, root, revoked)
        ticket = _TICKET.read(signatures.opened(envelope.ticket, certificate), "somebody")
    except Refused:
        raise
    except RecordError:
        raise Refused(Reason.MALFORMED) from None
    except Exception:  # noqa: BLE001  (of many classes, for what a stranger has written into a certificate)
        raise Refused(Reason.FORGED) from None
    if ticket.mesh != mesh:
        raise Refused(Reason.MESH)
    if datetime.now(UTC).timestamp() > ticket.not_after + CLOCK_TOLERANCE.total_seconds():
        raise Refused(Reason.STALE)
    if ticket.pair[0] >= ticket.pair[1]:
        raise Refused(Reason.MALFORMED)
    return ticket, server


def _server(certificate: x509.Certificate, root: x509.Certificate, revoked: Collection[str]) -> Identity:
    """The holder, who must be the mesh's server; raises Refused or CertificateError where he is not."""
    server = holder(certificate, root)
    if server.kind is not Kind.SERVER:
        raise CertificateError("the ticket is not of the server")
    if server.serial in revoked:
        raise Refused(Reason.REVOKED)
    return server
