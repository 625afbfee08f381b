"""Runs that go on while a test looks."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cluster import kubectl, wait_until
from installed_mesh import Mesh

from flaremesh.deploy.runs.session import connect
from flaremesh.deploy.targets.kubernetes.target import KubernetesTarget
from flaremesh.metrics.names import RunState
from flaremesh.p2p.gate import order
from flaremesh.provision.job import write_job
from flaremesh.topology.schema import Topology

FOREVER = 10**6
"""Iterations."""

UNEVEN = {
    "file": str(Path(__file__).with_name("uneven.py")),
    "name": "Uneven",
    "args": {"slow": "bonn", "seconds": 0.02, "dimension": 100},
}
# four fifths of the budget are spent after about 50 seconds, and all of it 20 seconds later
SPENDING = {
    "algorithm": "dgd",
    "stepsize": 0.1,
    "iterations": 3500,
    "on_loss": "fail",
    "problem": UNEVEN,
    "privacy": {"epsilon": 8.0, "delta": 1e-5, "clip": 1.0},
}

_START_SECONDS = 120.0  # three runs at once, with an edge that only the relay carries

# With the certificate of a site that is no in-neighbour, the site's own; it hears that it is refused.
_DIAL = """
import pathlib, socket, ssl
kit = pathlib.Path("/workspace/startup")
context = ssl.create_default_context(cafile=str(kit / "rootCA.pem"))
context.check_hostname = False
context.load_cert_chain(kit / "client.crt", kit / "client.key")
with context.wrap_socket(socket.create_connection(("127.0.0.1", 8102), timeout=5)) as connection:
    connection.sendall(bytes(4096))
    connection.recv(1)
"""

# Its port is another's as soon as it has ended, so that none comes up.
_OUST = """
import psutil, sys
from flaremesh.meeting.point import listen
while True:
    for process in psutil.process_iter(["cmdline"]):
        if "flaremesh.meeting" in (process.info["cmdline"] or ()):
            process.kill()
    try:
        taken = listen(8003)
        break
    except OSError:
        pass
print("taken", flush=True)
sys.stdin.read()
"""

_KNOCK = """
import socket
with socket.create_connection(("127.0.0.1", 8003), timeout=5) as connection:
    connection.sendall(b"FMMP\\xff" + bytes(5))
    assert connection.recv(1) == b"R"
"""


@contextmanager
def running(mesh: Mesh, name: str, **changes: Any) -> Iterator[str]:
    """The id of a run while it runs; it is aborted in the end, if it has not ended.

    Args:
        mesh: where.
        name: of the run.
        changes: further settings of run.
    """
    document = yaml.safe_load(mesh.file.read_text())
    document["run"] |= {"iterations": FOREVER, "start_timeout": _START_SECONDS} | changes
    problem = document["run"]["problem"]
    if source := problem.get("file"):
        document["run"]["problem"] = problem | {"file": shutil.copy(source, mesh.file.parent)}
    file = mesh.file.with_name(f"{name}.yaml")
    file.write_text(yaml.safe_dump(document))
    log = file.with_suffix(".log")
    before = _ids(mesh)
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "flaremesh.cli.main", "run", str(file), "--name", name),
                *("--target", "kubernetes", "--output", str(mesh.folder)),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: ": running" in log.read_text() or process.poll() is not None, 240, log.read_text)
        assert process.poll() in (None, 0), log.read_text()
        (run_id,) = _ids(mesh) - before
        yield run_id
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


@contextmanager
def running_with_other_weights(mesh: Mesh, name: str, weight: float, **changes: Any) -> Iterator[str]:
    """The id of a job, while it runs, whose network somebody edited after it was planned.

    Args:
        mesh: where.
        name: of the job.
        weight: of every edge.
        changes: further settings of run.
    """
    document = yaml.safe_load(mesh.file.read_text())
    document["run"] |= {"iterations": FOREVER, "start_timeout": _START_SECONDS} | changes
    planned = Topology.model_validate(document)
    job = mesh.file.with_name(name)
    write_job(planned, job, name=name)
    config = job / "app_server/config/config_fed_server.json"
    edited = json.loads(config.read_text())
    for node in edited["workflows"][0]["args"]["config"]["network"]["nodes"]:
        node["weight"] = 1 - weight * len(node["neighbors"])
        for neighbor in node["neighbors"]:
            neighbor["weight"] = weight
    config.write_text(json.dumps(edited))
    app = job / "app_server"
    order.write(order.read(app), app)  # the server, too, takes in only what an app's order lists
    target = KubernetesTarget(planned, mesh.folder)
    with target.server() as server, connect(planned, mesh.folder, server) as session:
        run_id = session.submit(job)
        try:
            wait_until(lambda: (told := session.progress(run_id)) and told.state is RunState.RUNNING, 120)
            yield run_id
        finally:
            session.abort(run_id, 60)


@contextmanager
def meeting_point_ousted(mesh: Mesh) -> Iterator[None]:
    """The server's meeting point has ended, and another process has its port."""
    pod = ("--namespace", mesh.namespaces["server"], "exec", "--stdin", "server-0", "--")
    pipe = subprocess.PIPE
    with subprocess.Popen(["kubectl", *pod, "python", "-c", _OUST], stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"taken\n"
        yield


def knock_in_another_version(mesh: Mesh) -> None:
    """Speak to the server's meeting point, once it is up, as a later version of flaremesh may."""
    pod = (mesh.namespaces["server"], "exec", "server-0", "--", "python", "-c", _KNOCK)
    wait_until(lambda: "Error" not in kubectl(*pod, check=False), 60)


def _ids(mesh: Mesh) -> set[str]:
    return {path.name for path in mesh.folder.glob("runs/*-*-*")}


def dial_as_a_stranger(mesh: Mesh, site: str) -> None:
    """Connect to the link port of a site's run with a certificate that it does not admit."""
    kubectl(mesh.namespaces[site], "exec", f"{site}-0", "--", "python", "-c", _DIAL)
