"""What the server learns of who connects to it, with NVFlare's own connections over gRPC."""

import inspect
import queue
from contextlib import ExitStack
from datetime import timedelta

import pytest
from nvflare.apis.fl_constant import ConnectionSecurity
from nvflare.fuel.f3.communicator import Communicator
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.f3.endpoint import Endpoint, EndpointMonitor, EndpointState
from nvflare.fuel.f3.sfm.conn_manager import Mode
from nvflare.fuel.f3.sfm.sfm_endpoint import SfmEndpoint

from flaremesh.certificates import CertificateError, Kind
from flaremesh.issuing import Authority, Profile, key_pem, new_key, pem, run_certificate
from flaremesh.p2p.nvflare.logins import _guard_connections
from ports import free_port

ROOT = Authority.new("ring", 10)
KEY, RUN_KEY = new_key(), new_key()
BONN = ROOT.issue(Profile(Kind.SITE, "bonn", "hospitals"), KEY.public_key(), 5)
RUNS = ROOT.for_runs(BONN)
RUN = run_certificate(RUNS, KEY, RUN_KEY.public_key(), timedelta(days=1))


class Listening(EndpointMonitor):
    """The server's end: notes which chains it met, and which endpoints were taken in."""

    def __init__(self):
        self.met, self.ready = queue.Queue(), queue.Queue()
        self.refuses = False
        self.taken = []

    def meet(self, chain):
        self.met.put(chain)
        if self.refuses:
            raise CertificateError("the certificate of bonn is revoked")

    def refused(self, what, why):
        """The server's log and metrics would hear of it."""

    def state_change(self, endpoint):
        if endpoint.state == EndpointState.READY:
            self.ready.put(endpoint.name)


@pytest.fixture
def connect(tmp_path):
    """Connects as an endpoint to a server that ``listening`` guards."""
    listening, url = Listening(), f"grpc://localhost:{free_port()}"
    (tmp_path / "root").write_bytes(pem(ROOT.certificate))

    def communicator(name, mode, certificates, key):
        chain, secret = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
        chain.write_bytes(pem(*certificates))
        secret.write_bytes(key_pem(key))
        side = ("SERVER_CERT", "SERVER_KEY") if mode == Mode.PASSIVE else ("CLIENT_CERT", "CLIENT_KEY")
        files = dict(zip((DriverParams[one].value for one in side), (str(chain), str(secret)), strict=True))
        properties = files | {
            DriverParams.CA_CERT.value: str(tmp_path / "root"),
            DriverParams.CONNECTION_SECURITY.value: ConnectionSecurity.MTLS,
        }
        made = Communicator(Endpoint(name, conn_props=properties))
        made.add_connector(url, mode, secure=True)
        return made

    server_key = new_key()
    profile = Profile(Kind.SERVER, "server", "consortium", hosts=("localhost",))
    certificate = ROOT.issue(profile, server_key.public_key(), 5)
    with ExitStack() as stack:
        server = communicator("server", Mode.PASSIVE, [certificate], server_key)
        server.register_monitor(listening)
        update = server.conn_manager.update_endpoint

        def noted(connection, data):
            listening.taken.append(connection.get_name())
            update(connection, data)

        server.conn_manager.update_endpoint = noted
        _guard_connections(server.conn_manager, listening)
        server.start()
        stack.callback(server.stop)

        def start(name, certificates, key):
            site = communicator(name, Mode.ACTIVE, certificates, key)
            site.start()
            stack.callback(site.stop)

        yield start, listening


@pytest.mark.parametrize(
    ("name", "chain", "key"), [("bonn", [BONN], KEY), ("bonn.run-1", [RUN, RUNS], RUN_KEY)]
)
def test_the_server_sees_the_whole_chain_of_a_site_and_of_its_runs(connect, name, chain, key):
    start, listening = connect
    start(name, chain, key)
    assert listening.met.get(timeout=20) == chain, "gRPC gives another chain"
    assert listening.ready.get(timeout=20) == name


def test_who_is_refused_takes_nobodys_place(connect):
    start, listening = connect
    start("bonn", [BONN], KEY)
    assert listening.ready.get(timeout=20) == "bonn"
    listening.refuses = True
    start("bonn", [BONN], KEY)
    for _ in range(2):
        assert listening.met.get(timeout=20) == [BONN]
    assert "is evicted for" in inspect.getsource(SfmEndpoint.add_connection), "is the guard still needed?"
    assert len(listening.taken) == 1
