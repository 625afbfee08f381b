"""Who may come in: whether a knock proves that its connection is an end of a pair."""

from collections.abc import Collection
from typing import Final

from cryptography import x509

from flaremesh import signatures
from flaremesh.certificates import CertificateError, Identity, Newest, identify
from flaremesh.meeting.knock import Knock, statement
from flaremesh.meeting.refusal import Reason, Refused
from flaremesh.meeting.ticket import verified

_LONGEST_CHAIN: Final = 4  # certificates; each costs time


class Doorman:
    """Remembers of all who came nothing but since when their newest certificates count.

    Args:
        mesh: name of the mesh.
        root: certificate of the mesh's root.
        revoked: serial numbers of certificates that count no more, in decimal.
    """

    def __init__(self, mesh: str, root: x509.Certificate, revoked: Collection[str] = ()):
        self._mesh, self._root, self._revoked = mesh, root, frozenset(revoked)
        self._servers, self._sites = Newest(), Newest()

    def admit(self, knock: Knock, nonce: bytes, signature: bytes) -> tuple[tuple[str, tuple[str, str]], str]:
        """Whose connection it is: the run and its pair, and the name of the end.

        Args:
            knock: what it said first.
            nonce: what it was to sign.
            signature: of that.

        Raises:
            Refused: it does not prove to be the end of any pair.
        """
        ticket, server = verified(knock.ticket, self._mesh, self._root, self._revoked)
        _require_newest(server, self._servers)
        chain = _certificates(knock.chain)
        site = self._site(chain)
        if site.name not in ticket.pair:
            raise Refused(Reason.STRANGER)
        if not signatures.is_of_run(
            statement(nonce, ticket.run, ticket.pair, site.name), signature, chain[0]
        ):
            raise Refused(Reason.UNPROVEN)
        _require_newest(site, self._sites)
        return (ticket.run, ticket.pair), site.name

    def _site(self, chain: list[x509.Certificate]) -> Identity:
        try:
            site = identify(chain, self._root)
        except Exception:  # noqa: BLE001  (of many classes, for what a stranger has written there)
            raise Refused(Reason.UNTRUSTED) from None
        if any(str(certificate.serial_number) in self._revoked for certificate in chain):
            raise Refused(Reason.REVOKED)
        return site


def _certificates(text: bytes) -> list[x509.Certificate]:
    if text.count(b"-----BEGIN") > _LONGEST_CHAIN:
        raise Refused(Reason.UNTRUSTED)
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        raise Refused(Reason.UNTRUSTED) from None


def _require_newest(identity: Identity, newest: Newest) -> None:
    try:
        newest.admit(identity)
    except CertificateError:
        raise Refused(Reason.OUTDATED) from None
