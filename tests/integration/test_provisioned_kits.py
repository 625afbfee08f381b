"""NVFlare's own programs, started from the kits that flaremesh makes."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nvflare.fuel.flare_api.flare_api import new_secure_session

from flaremesh.metrics.ask import PORT_VARIABLE
from flaremesh.p2p.agents.agent import AGENT_FILE
from flaremesh.provision.job import write_job
from flaremesh.provision.kits import provision
from flaremesh.topology.load import load
from flaremesh.topology.schema import ProblemReference, Topology

TOPOLOGY = """
apiVersion: flaremesh/v1
name: pair
server: {{host: localhost, port: {port}, org: consortium}}
admins: [{{email: admin@example.org, org: consortium, role: project_admin}}]
sites: [{{name: bonn, org: ukb}}, {{name: ulm, org: uku}}]
graph: {{kind: ring}}
run: {{algorithm: consensus, iterations: 1, problem: {{path: flaremesh.problems.consensus.Consensus}}}}
"""

Start = Callable[[Path, str], Path]


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Topology:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    file = tmp_path_factory.mktemp("topology") / "pair.yaml"
    file.write_text(TOPOLOGY.format(port=port))
    return load(file)


@pytest.fixture(scope="module")
def kits(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mesh")
    provision(topology, out)
    return out / "kits"


@pytest.fixture(scope="module")
def foreign_kits(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits of the same names and address under another root."""
    out = tmp_path_factory.mktemp("foreign")
    provision(topology, out)
    return out / "kits"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a participant from a copy of its kit and returns its workspace."""
    processes = []

    def start(kit: Path, org: str) -> Path:
        workspace = tmp_path_factory.mktemp("run") / kit.name
        shutil.copytree(kit, workspace)
        role, identity = ("server", []) if kit.name == "server" else ("client", [f"uid={kit.name}"])
        command = [sys.executable, "-u", "-m", f"nvflare.private.fed.app.{role}.{role}_train"]
        command += ["-m", str(workspace), "-s", f"fed_{role}.json"]
        command += ["--set", "secure_train=true", f"org={org}", "config_folder=config", *identity]
        with (workspace / "console.log").open("w") as console:
            environment = os.environ | {PORT_VARIABLE: "0"}
            process = subprocess.Popen(command, stdout=console, stderr=subprocess.STDOUT, env=environment)
        processes.append(process)
        return workspace

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(kits: Path, start: Start) -> Path:
    workspace = start(kits / "server", "consortium")
    wait_for(lambda: ready(workspace), workspace)
    return workspace


@pytest.fixture(scope="module")
def site(server: Path, kits: Path, start: Start) -> Path:
    workspace = start(kits / "bonn", "ukb")
    wait_for(lambda: ready(workspace), workspace, seconds=30)
    return workspace


def wait_for(condition: Callable[[], bool], workspace: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (workspace / "console.log").read_text()
        time.sleep(0.1)


def ready(workspace: Path) -> bool:
    file = workspace / AGENT_FILE
    if not file.exists():
        return False
    try:
        with urllib.request.urlopen(f"{json.loads(file.read_text())['url']}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


def answered(kit: Path | None, trust: Path, port: int) -> bool:
    """Whether the server goes on talking after a TLS handshake with the kit's certificate."""
    context = ssl.create_default_context(cafile=trust / "startup/rootCA.pem")
    context.set_alpn_protocols(["h2"])
    if kit:
        context.load_cert_chain(kit / "startup/client.crt", kit / "startup/client.key")
    with (
        socket.create_connection(("localhost", port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as link,
    ):
        try:
            return link.recv(1) != b""
        except (ssl.SSLError, ConnectionResetError):
            return False


def test_a_site_registers_within_30_seconds(server: Path, site: Path) -> None:
    assert ready(site)
    assert "New client bonn" in (server / "console.log").read_text()


def test_a_site_of_another_root_is_refused(server: Path, foreign_kits: Path, start: Start) -> None:
    site = start(foreign_kits / "ulm", "uku")
    wait_for(lambda: "CERTIFICATE_VERIFY_FAILED" in (site / "console.log").read_text(), site)
    assert not ready(site)
    assert "New client ulm" not in (server / "console.log").read_text()


def test_the_server_talks_to_nobody_without_a_certificate_of_its_root(
    server: Path, kits: Path, foreign_kits: Path, topology: Topology
) -> None:
    port = topology.server.port
    assert answered(kits / "bonn", trust=kits / "bonn", port=port)
    assert not answered(foreign_kits / "bonn", trust=kits / "bonn", port=port)
    assert not answered(None, trust=kits / "bonn", port=port)


def test_the_server_keeps_its_jobs_in_the_workspace_it_was_started_in(server: Path) -> None:
    assert {path.name for path in (server / "storage").iterdir()} >= {"jobs", "snapshots"}


def test_a_site_runs_no_code_that_a_job_brings_along(
    server: Path, site: Path, kits: Path, topology: Topology, tmp_path: Path
) -> None:
    (tmp_path / "problem.py").write_text("class Problem: ...\n")
    problem = ProblemReference(file=tmp_path / "problem.py", name="Problem")
    run = topology.run.model_copy(update={"problem": problem})
    write_job(topology.model_copy(update={"run": run}), tmp_path / "job", name="code")
    meta = tmp_path / "job/meta.json"
    document = json.loads(meta.read_text())
    document["deploy_map"]["app_sites"] = ["bonn"]  # ulm is down
    meta.write_text(json.dumps(document | {"mandatory_clients": ["bonn"], "min_clients": 1}))
    admin = topology.admins[0].email
    session = new_secure_session(username=admin, startup_kit_location=str(kits / admin))
    try:
        job = session.submit_job(str(tmp_path / "job"))
        wait_for(lambda: session.get_job_meta(job)["status"].startswith("FINISHED"), server)
        assert session.get_job_meta(job)["status"] == "FINISHED:FAILED_TO_RUN"
    finally:
        session.close()
    log = (server / "console.log").read_text()
    assert "bonn: NVFLARE_ERROR: the kit here accepts no code of a job" in log
