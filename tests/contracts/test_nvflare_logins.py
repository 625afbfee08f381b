"""What happens at the server between a login and the guard of flaremesh."""

import inspect
import logging

import pytest
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.hci.server import login
from nvflare.fuel.hci.server.hci import AdminServer
from nvflare.lighter.utils import sign_content
from nvflare.private.defs import CellMessageHeaderKeys, ClientType, new_cell_message
from nvflare.private.fed.app.deployer import server_deployer
from nvflare.private.fed.app.server import server_train
from nvflare.private.fed.authenticator import MISSING_CLIENT_FQCN, validate_auth_headers
from nvflare.private.fed.server import client_manager, fed_server
from nvflare.private.fed.server.client_manager import ClientManager
from nvflare.private.fed.server.cred_keeper import CredKeeper
from nvflare.private.fed.utils.identity_utils import IdentityVerifier, TokenVerifier

from flaremesh.certificates import Kind
from flaremesh.issuing import Authority, Profile, new_key, pem

KEY = new_key()


@pytest.fixture
def root():
    return Authority.new("ring", 10)


def test_whoever_logs_in_is_verified_by_the_verifier_in_the_keeper_of_credentials():
    keeper, verifier = CredKeeper(), object()
    keeper.id_verifier = verifier
    assert keeper.get_id_verifier(FLContext()) is verifier, "CredKeeper no longer uses id_verifier"
    for asks, how in [
        (ClientManager._get_id_verifier, "cred_keeper.get_id_verifier"),
        (AdminServer.get_id_verifier, "cred_keeper.get_id_verifier"),
        (ClientManager.authenticated_client, "verify_common_name"),
        (login, "verify_common_name"),
    ]:
        assert how in inspect.getsource(asks), f"{asks.__name__} no longer calls {how}"


def test_the_verifier_takes_a_proof_by_the_key_of_a_certificate_of_the_root(tmp_path, root):
    (tmp_path / "rootCA.pem").write_bytes(pem(root.certificate))
    certificate = root.issue(Profile(Kind.SITE, "bonn", "hospitals"), KEY.public_key(), 5)
    verifier = IdentityVerifier(root_cert_file=str(tmp_path / "rootCA.pem"))
    proof = sign_content("bonn" + "nonce", KEY, return_str=False)
    assert verifier.verify_common_name("bonn", "nonce", certificate, proof, [])
    with pytest.raises(Exception, match="signature"):
        verifier.verify_common_name("bonn", "another", certificate, proof, [])


def test_who_is_not_let_in_is_told_the_reason_in_the_context():
    source = inspect.getsource(fed_server.FederatedServer._generate_reply)
    assert "fl_ctx.get_prop(FLContextKey.UNAUTHENTICATED)" in source
    assert "self.client_manager.authenticate(request, fl_ctx)" in inspect.getsource(
        fed_server.FederatedServer.register_client
    )


def test_a_manager_without_secure_mode_lets_in_who_proves_nothing():
    """For the moment in which this is so, flaremesh refuses everybody."""
    manager = ClientManager(project_name="ring")
    headers = {
        CellMessageHeaderKeys.PROJECT_NAME: "ring",
        CellMessageHeaderKeys.CLIENT_NAME: "bonn",
        CellMessageHeaderKeys.CLIENT_TYPE: ClientType.REGULAR,
        CellMessageHeaderKeys.CLIENT_IP: "127.0.0.1",
    }
    shareable = client_manager.Shareable()
    shareable.set_peer_context(FLContext())
    fl_ctx = FLContext()
    fl_ctx.set_peer_context(FLContext())
    client = manager.authenticate(new_cell_message(headers, shareable), fl_ctx)
    assert client.name == "bonn"
    assert client.token in manager.clients
    manager.remove_client(client.token)
    assert not manager.clients


@pytest.mark.parametrize(("origin", "passes"), [(None, True), (MISSING_CLIENT_FQCN, False)])
def test_a_token_whose_origin_is_missing_is_refused_and_an_unknown_one_is_not(root, origin, passes):
    certificate = root.issue(Profile(Kind.SERVER, "server", "consortium"), KEY.public_key(), 5)
    headers = {
        CellMessageHeaderKeys.CLIENT_NAME: "bonn",
        CellMessageHeaderKeys.TOKEN: "token",
        CellMessageHeaderKeys.TOKEN_SIGNATURE: sign_content("bonn" + "token", KEY),
        MessageHeaderKey.ORIGIN: "bonn",
    }
    refusal = validate_auth_headers(
        new_cell_message(headers),
        TokenVerifier(certificate),
        logging.getLogger(__name__),
        lambda name, token: origin,
    )
    assert (refusal is None) == passes
    assert "client_fqcn_resolver=self._resolve_client_fqcn_for_auth" in inspect.getsource(
        fed_server.FederatedServer._validate_auth_headers
    )


def test_no_admin_can_log_in_before_the_server_knows_its_admin_server():
    source = inspect.getsource(server_train.main)
    admin, configuration = source.index("set_admin_server"), source.index("FLContextKey.SERVER_CONFIG")
    assert admin < configuration, "the root is known before set_admin_server"
    deploy = inspect.getsource(server_deployer.ServerDeployer.deploy)
    assert deploy.index("FLContextKey.SITE_OBJ, services") < deploy.index("EventType.SYSTEM_BOOTSTRAP")
