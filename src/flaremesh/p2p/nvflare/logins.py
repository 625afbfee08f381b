"""Who may log in at the server, and with which token a site may come back.

This hides NVFlare's registration of sites, its login of admins, and its tokens, which never expire: the
server takes each that it once signed, also after it was started again.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

from cryptography import x509
from nvflare.apis.client import Client
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.identity import is_mtls_connection
from nvflare.private.defs import CellMessageHeaderKeys, ClientType
from nvflare.private.fed.authenticator import MISSING_CLIENT_FQCN
from nvflare.private.fed.utils.identity_utils import IdentityAsserter, IdentityVerifier
from typing_extensions import override

from flaremesh.certificates import CertificateError, Identity, Kind
from flaremesh.p2p.nvflare.startup import StartupFiles

_KINDS: Final = {ClientType.REGULAR: Kind.SITE, ClientType.ADMIN: Kind.ADMIN}

Refused: TypeAlias = Literal["connection", "login", "message"]
"""What can be refused."""


class Guard(Protocol):
    """Decides about logins; its methods are called by several threads."""

    def admit(self, certificate: x509.Certificate) -> Identity:
        """Let in who has proved to have a certificate's key.

        Raises:
            CertificateError: this participant may not log in; the message says who and why.
        """

    def meet(self, chain: Sequence[x509.Certificate]) -> None:
        """Let in a connection, by the chain that its other end showed in TLS, without the root.

        Raises:
            CertificateError: it is refused; the message says whose it is and why.
        """

    def remember(self, site: str, token: str) -> None:
        """Note the token that a site got when it logged in.

        Raises:
            CertificateError: it cannot be noted.
        """

    def knows(self, name: str, token: str) -> bool:
        """Whether a participant that has not logged in at this process may send messages with a token.

        Raises:
            CertificateError: that cannot be told.
        """

    def refused(self, what: Refused, why: str) -> None:
        """Hear of what was refused."""


def guard_logins(files: StartupFiles, guard: Guard, fl_ctx: FLContext) -> None:
    """Let ``guard`` decide about all connections and logins from now on, and about messages without a login.

    Args:
        files: of the server's kit.
        guard: decides.
        fl_ctx: context of SYSTEM_BOOTSTRAP at the server; nobody has logged in before that.
    """
    server, root = fl_ctx.get_prop(FLContextKey.SITE_OBJ), files.root
    _sign_from_now_on(server, files)
    _guard_connections(server.cell.core_cell.communicator.conn_manager, guard)
    _guard_sites(server.client_manager, _Verifier(root, guard), guard)
    ready = server._ready_for_registration
    resolve, set_admin_server = server._resolve_client_fqcn_for_auth, server.set_admin_server

    def ready_and_secure(now: FLContext) -> Any:
        """Why a login must come again: NVFlare listens before it knows its own certificate."""
        if now.get_prop(FLContextKey.SECURE_MODE) and now.get_prop(FLContextKey.SERVER_CONFIG):
            return ready(now)
        return "the server is starting"

    def resolve_known(name: str, token: str) -> str | None:
        """Where messages with a token must come from; what NVFlare does not know it would let pass."""
        origin = resolve(name, token)
        try:
            if origin is not None:
                return str(origin)
            if guard.knows(name, token):
                return None
            guard.refused("message", f"{name} has another certificate or a later login by now")
        except CertificateError as error:
            guard.refused("message", str(error))
        return str(MISSING_CLIENT_FQCN)

    def set_guarded(admin_server: Any) -> None:
        # until here NVFlare's admin server has not known the root, and let nobody in
        admin_server.cred_keeper.id_verifier = _Verifier(root, guard, Kind.ADMIN)
        set_admin_server(admin_server)

    server._ready_for_registration = ready_and_secure
    server._resolve_client_fqcn_for_auth = resolve_known
    server.set_admin_server = set_guarded


def _sign_from_now_on(server: Any, files: StartupFiles) -> None:
    """Let the server know its own certificate, by which it checks and signs messages.

    NVFlare tells it at the end of the start. If a site asks before, what the server sends has no signature
    for the rest of the process's life, and no admin's login believes it.
    """
    server.cred_keeper.id_asserter = IdentityAsserter(str(files.key), str(files.certificate))
    server.my_own_token_signature = None


class _Verifier(IdentityVerifier):
    """Asks the guard once NVFlare is content.

    Args:
        root: the file with the root's certificate.
        guard: asked.
        kind: what everybody must be who is verified; None: what `expect` says.
    """

    def __init__(self, root: Path, guard: Guard, kind: Kind | None = None):
        super().__init__(root_cert_file=str(root))
        self._guard = guard
        self._kind = kind
        self._login = threading.local()

    def expect(self, kind: Kind) -> None:
        """Begin a login of this kind in this thread."""
        self._login.kind, self._login.admitted, self._login.refusal = kind, False, None

    @property
    def admitted(self) -> bool:
        """Whether the login of this thread was let in."""
        return bool(self._login.admitted)

    @property
    def refusal(self) -> str | None:
        """Why the login of this thread was refused."""
        reason: str | None = self._login.refusal
        return reason

    @override
    def verify_common_name(
        self,
        asserted_cn: str,
        nonce: str,
        asserter_cert: x509.Certificate,
        signature: Any,
        intermediate_certs: Any = None,
        expected_eku: Any = None,
    ) -> bool:
        if self._kind:
            self.expect(self._kind)
        super().verify_common_name(
            asserted_cn, nonce, asserter_cert, signature, intermediate_certs, expected_eku
        )
        try:
            identity = self._guard.admit(asserter_cert)
            if identity.kind is not self._login.kind:
                wanted: Kind = self._login.kind
                raise CertificateError(
                    f"{identity.name} cannot log in as {wanted}: the certificate says {identity.kind}"
                )
        except CertificateError as error:
            self._guard.refused("login", str(error))
            self._login.refusal = str(error)
            raise
        self._login.admitted = True
        return True


def _guard_connections(manager: Any, guard: Guard) -> None:
    """Guard NVFlare's manager of connections, for which the last one of a name takes the place of others."""
    update = manager.update_endpoint

    def update_guarded(connection: Any, data: dict[str, Any]) -> None:
        if is_mtls_connection(connection.conn.connector.params):
            try:
                guard.meet(_chain(connection.conn))
            except CertificateError as error:
                guard.refused("connection", str(error))
                connection.conn.close()
                return
        update(connection, data)

    manager.update_endpoint = update_guarded


def _chain(connection: Any) -> list[x509.Certificate]:
    """The certificates that the other end of a connection of gRPC showed."""
    facts = connection.context.auth_context()
    leaf = x509.load_pem_x509_certificates(facts["x509_pem_cert"][0])
    # a server's chain does not begin with the peer's own certificate
    above = [x509.load_pem_x509_certificates(pem) for pem in facts.get("x509_pem_cert_chain", ())]
    return leaf + [certificate for chain in above for certificate in chain if certificate not in leaf]


def _guard_sites(manager: Any, verifier: _Verifier, guard: Guard) -> None:
    """Guard NVFlare's manager of sites and of the connections of admins."""
    authenticate = manager.authenticate

    def authenticate_guarded(request: Any, fl_ctx: FLContext) -> Client | None:
        kind = _KINDS.get(request.get_header(CellMessageHeaderKeys.CLIENT_TYPE))
        if kind is None:
            return None  # NVFlare's relays, of which a mesh has none
        verifier.expect(kind)
        client = authenticate(request, fl_ctx)
        refusal = verifier.refusal
        if client and not verifier.admitted:
            refusal = "the server is not ready"  # a moment in which NVFlare lets in everybody
        elif client and kind is Kind.SITE:
            try:
                guard.remember(client.name, client.token)
            except CertificateError as error:
                guard.refused("login", str(error))
                refusal = str(error)
        if refusal is None:
            return client
        if client:
            manager.remove_client(client.token)
        fl_ctx.set_prop(FLContextKey.UNAUTHENTICATED, refusal, sticky=False)
        return None

    manager.cred_keeper.id_verifier = verifier
    manager.authenticate = authenticate_guarded
