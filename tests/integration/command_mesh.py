"""A mesh of real NVFlare processes, driven by the command as a user drives it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from flaremesh.p2p.agents.agent import AGENT_FILE
from ports import LinkPorts, free_port

SITES = ("heidelberg", "bonn", "aachen")
VALUES = {"heidelberg": 1.0, "bonn": 2.0, "aachen": 6.0}
PEER_TIMEOUT = 15.0
PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"), "http://127.0.0.1:9")
"""As many machines of institutions have them; nobody listens at that port."""
ENDLESS = {"algorithm": "dgd", "stepsize": 0.1, "iterations": 10**7}
UNHURRIED = {"path": "faulty.Unhurried", "args": {"values": VALUES}}


class Mesh:
    """A ring of three in its own folder and on its own port; up and down are up to the test.

    Args:
        folder: for everything.
        name: of the mesh.
        port: of its server.
    """

    def __init__(self, folder: Path, name: str, port: int | None = None):
        self.folder = folder / name
        self._files = folder
        self.port = port or free_port()
        self._ports = LinkPorts(len(SITES))
        self.link_ports = (self._ports.ranges[0][0], self._ports.ranges[-1][1])
        self.links: dict[str, dict[str, Any] | None] = {
            site: {"host": "localhost", "ports": f"{low}-{high}"}
            for site, (low, high) in zip(SITES, self._ports.ranges, strict=True)
        }
        self._document = {
            "apiVersion": "flaremesh/v1",
            "name": name,
            "server": {"host": "localhost", "port": self.port, "org": "consortium"},
            "admins": [{"email": "admin@example.org", "org": "consortium", "role": "project_admin"}],
            "graph": {"kind": "ring"},
            "code": {"packages": ["faulty", "nosy"]},
        }
        self.file = self.topology("consensus")
        self.commands: list[subprocess.Popen[str]] = []

    def topology(
        self,
        algorithm: str,
        problem: Mapping[str, Any] | None = None,
        addresses: Mapping[str, dict[str, Any] | None] | None = None,
        **run: Any,
    ) -> Path:
        """The file of this mesh with another run, and with other link addresses of some sites."""
        consensus = {"path": "flaremesh.problems.consensus.Consensus", "args": {"values": VALUES}}
        defaults = {"iterations": 40, "peer_timeout": PEER_TIMEOUT, "start_timeout": 60}
        file = self._files / f"{self._document['name']}-{len(list(self._files.glob('*.yaml')))}.yaml"
        fields = {"algorithm": algorithm, "problem": problem or consensus} | defaults | run
        links = self.links | (addresses or {})
        sites = [
            {"name": site, "org": "consortium"} | ({"link": link} if link else {})
            for site, link in links.items()
        ]
        file.write_text(yaml.safe_dump(self._document | {"sites": sites, "run": fields}))
        return file

    def hide(self, meeting_port: int) -> None:
        """Take all sites' addresses away before the mesh is provisioned, and give it a meeting point."""
        self.links = dict.fromkeys(SITES)
        self._document["server"]["meet"] = {"port": meeting_port}
        self.file = self.topology("consensus")

    def release(self) -> None:
        """Let other meshes have the ports."""
        self._ports.release()

    def start(
        self, command: str, *options: str, file: Path | None = None, **streams: int
    ) -> subprocess.Popen[str]:
        packages = os.pathsep.join(
            [str(Path(__file__).parent / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "flaremesh.cli.main", command),
                *(str(file or self.file), "--output", str(self.folder), *options),
            ],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
            text=True,
            env=os.environ | PROXIES | {"PYTHONPATH": packages, "COLUMNS": "200"},
        )
        self.commands.append(process)
        return process

    def start_endless(self, **options: Any) -> subprocess.Popen[str]:
        """A run that goes on until it is ended; ``options`` are those of ``topology``."""
        return self.start("run", file=self.topology(**ENDLESS, **({"problem": UNHURRIED} | options)))

    @contextmanager
    def endless(self, **options: Any) -> Iterator[str]:
        """The id of such a run, which iterates until the end of the block."""
        run = self.start_endless(**options)
        try:
            yield running(run)
        finally:
            run.send_signal(signal.SIGINT)
            ended = finished(run)
        assert ended.returncode == 130

    def call(self, command: str, *options: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
        return finished(self.start(command, *options, file=file))

    def run(self, *options: str, file: Path | None = None) -> dict[str, Any]:
        """The result of a run that must finish."""
        ended = self.call("run", "--json", *options, file=file)
        assert ended.returncode == 0, ended.stderr
        return dict(json.loads(ended.stdout))

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.call("status", "--json").stdout))

    def samples(self, site: str, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of the series of one name at a site."""
        url = json.loads((self.folder / "local" / site / AGENT_FILE).read_text())["url"]
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        return [(s.labels, s.value) for f in families for s in f.samples if s.name == f"flaremesh_{name}"]

    def iterates(self, site: str, run_id: str) -> bool:
        """Whether a run has done an iteration at a site."""
        slots = [labels["slot"] for labels, _ in self.samples(site, "run_info") if labels["run_id"] == run_id]
        return any(at for labels, at in self.samples(site, "current_iteration") if labels["slot"] in slots)

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(json.loads((self.folder / "local/processes.json").read_text())[name]["pid"])

    def processes(self, argument: str | None = None) -> list[psutil.Process]:
        """Whatever runs of this mesh, or what of it has been given this argument."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            arguments = process.info["cmdline"] or []
            if any(a.startswith(f"{self.folder}/local/") for a in arguments):
                found += [process] if argument is None or argument in arguments else []
        return found


def running(run: subprocess.Popen[str]) -> str:
    """Wait until a run that was just started iterates; returns its id."""
    assert run.stderr
    for line in run.stderr:
        if ": running" in line:
            return line.split()[1].rstrip(":")
    pytest.fail(f"the run ended with {run.wait()}")


def finished(command: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a command's end."""
    assert command.stdout
    assert command.stderr
    with command:
        output, errors = command.stdout.read(), command.stderr.read()
    return subprocess.CompletedProcess(command.args, command.returncode, output, errors)


def nothing_runs(mesh: Mesh, argument: str | None = None) -> bool:
    return not mesh.processes(argument)


@contextmanager
def mesh_in(folder: Path, name: str, port: int | None = None) -> Iterator[Mesh]:
    """A mesh that is not up yet; in the end nothing of it is left."""
    mesh = Mesh(folder, name, port)
    with ExitStack() as stack:
        stack.callback(mesh.release)
        stack.callback(_end, mesh)
        yield mesh


def _end(mesh: Mesh) -> None:
    for command in mesh.commands:
        if command.poll() is None:
            command.kill()
            finished(command)
    mesh.call("down")
    assert nothing_runs(mesh)
