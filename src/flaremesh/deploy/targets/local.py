"""The local target: server and sites as processes on this machine."""

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from http.client import HTTPException
from pathlib import Path

import psutil
from typing_extensions import override

from flaremesh import atomic
from flaremesh.deploy import proxies
from flaremesh.deploy.targets import LOCAL_WORKSPACES
from flaremesh.deploy.targets.base import MOST_ANSWER, Address, DeployError, Participant, Target, threads
from flaremesh.hosts import at, listening
from flaremesh.metrics.ask import HOST_VARIABLE, PORT_VARIABLE, SECONDS
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE
from flaremesh.p2p import job_processes, participant
from flaremesh.p2p.agents import ServerAgent, SiteAgent
from flaremesh.p2p.agents.agent import AGENT_FILE
from flaremesh.p2p.agents.kit import PARTS
from flaremesh.p2p.gate.policy import POLICY
from flaremesh.p2p.nvflare.processes import is_participant, works_in
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.printable import printable
from flaremesh.problems.data_folder import DATA_DIR_VARIABLE, data_folder
from flaremesh.sandbox.files import HIDES_VARIABLE
from flaremesh.topology.schema import SERVER, Topology
from flaremesh.waiting import wait_while

_POLL_SECONDS = 0.1
_LAST_BYTES = 1 << 16  # of a log, with its last lines
_HIDDEN = ("kits", "local", "state", "helm", "runs")  # folders of a mesh
_CLOCK_SECONDS = 5.0  # by so much a process's creation time may differ, since it moves when the clock is set


class LocalTarget(Target):
    """Runs every participant from a copy of its kit in ``<mesh>/local/<participant>``.

    Args:
        topology: the mesh.
        mesh: folder of the provisioned mesh.
    """

    start_seconds = 60.0

    def __init__(self, topology: Topology, mesh: Path):
        self._topology = topology
        proxies.spare(topology.server.host)
        self._kits = mesh / "kits"
        # NVFlare changes directory, so every path it is given must be absolute
        self._folder = (mesh / LOCAL_WORKSPACES).resolve()
        self._names = [SERVER, *(site.name for site in topology.sites)]

    @override
    def up(self, timeout: float) -> list[str]:
        running = self._processes()
        missing = [name for name in self._names if name not in running]
        if SERVER in missing:
            self._check_ports()
        try:
            for name in missing:
                running[name] = self._start(name)
                self._record(running)
            self._wait_until_ready(running, timeout)
        except BaseException:
            self._stop(missing)  # found by their workspaces too: an interrupt may come before one is recorded
            raise
        return missing

    @override
    def down(self) -> list[str]:
        running = list(self._processes())
        # a site that left the topology while it was up is stopped too
        self._stop(list(dict.fromkeys([*self._names, *running])))
        return running

    @override
    def participants(self) -> list[Participant]:
        running = self._processes()
        return [
            Participant(
                name=name,
                running=name in running,
                ready=name in running and self._is_ready(name),
                place=f"pid {running[name].pid}" if name in running else "",
                metrics=f"{agent}/metrics" if name in running and (agent := self._agent(name)) else None,
            )
            for name in self._names
        ]

    def run_folder(self, name: str, run_id: str) -> Path | None:
        """What a participant keeps of a run, None if it keeps nothing."""
        folder = self._workspace(name) / run_id / RUN_FOLDER
        return folder if folder.is_dir() else None

    @override
    def fetch(self, participant: str, run_id: str, folder: Path) -> bool:
        kept = self.run_folder(participant, run_id)
        if kept is None:
            return False
        # a job's code may have left anything there, such as a link to a device without end
        for path in (kept, *kept.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise DeployError(f"{printable(path.name, 80)} is neither a file nor a folder")
        shutil.copytree(kept, folder)
        return True

    @override
    def server(self) -> AbstractContextManager[Address]:
        return nullcontext((self._topology.server.host, self._topology.server.port))

    @override
    def ask(self, participant: str, path: str) -> bytes | None:
        agent = self._agent(participant)
        if agent is None:
            return None
        try:
            with urllib.request.urlopen(f"{agent}{path}", timeout=SECONDS) as reply:
                answer = bytes(reply.read(MOST_ANSWER + 1))
                return answer if len(answer) <= MOST_ANSWER else None
        except (OSError, ValueError, HTTPException):  # nobody answers, or something that is no agent
            return None

    @override
    def end_run(self, run_id: str, timeout: float) -> None:
        job_processes.end(run_id, timeout)

    def console(self, participant: str) -> Path:
        """The file with everything that the participant's processes printed."""
        return self._workspace(participant) / "console.log"

    def _workspace(self, name: str) -> Path:
        return self._folder / name

    # starting

    def _start(self, name: str) -> psutil.Process:
        workspace = self._workspace(name)
        for part in PARTS:
            if not (self._kits / name / part).is_dir():
                raise DeployError(
                    f"there is no kit of {name} in {self._kits}: run `flaremesh provision` first"
                )
            # other files in the workspace stay
            shutil.copytree(self._kits / name / part, workspace / part, dirs_exist_ok=True)
        self._link_policy(name)
        self._agent_file(name).unlink(missing_ok=True)
        log = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        pid = os.posix_spawn(
            sys.executable,
            # -P: nothing is imported from the current folder, where a user's own files lie
            [sys.executable, "-P", "-u", "-m", participant.__name__, str(workspace)],
            self._environment() | {participant.NAME_VARIABLE: name},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.console(name), log, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # Ctrl-C in this terminal must not end the mesh
        )
        return psutil.Process(pid)

    def _link_policy(self, name: str) -> None:
        """Have the site read the policy beside its kit, also one that is written later; its own stays."""
        place, policy = self._workspace(name) / POLICY, self._kits / name / POLICY
        if place.is_symlink():
            place.unlink()
        if not place.exists():
            place.symlink_to(policy.resolve())

    def _environment(self) -> dict[str, str]:
        shared = threads(os.cpu_count() or 1, len(self._topology.sites))
        environment = shared | os.environ | {HOST_VARIABLE: "127.0.0.1", PORT_VARIABLE: "0"}
        environment.pop(DIRECTORY_VARIABLE, None)  # one directory for all sites would mix their metrics
        # absolute, since the sites work in another directory
        if folder := data_folder():
            environment[DATA_DIR_VARIABLE] = str(folder.absolute())
        if folders := environment.get("PYTHONPATH"):
            absolute = (str(Path(folder).absolute()) for folder in folders.split(os.pathsep))
            environment["PYTHONPATH"] = os.pathsep.join(absolute)
        # all keys of a local mesh are this user's: a site's jobs have no business with the others'
        others = [str(self._folder.with_name(name)) for name in _HIDDEN]
        environment[HIDES_VARIABLE] = os.pathsep.join(
            filter(None, [environment.get(HIDES_VARIABLE), *others])
        )
        return environment

    def _check_ports(self) -> None:
        remedy = "Stop that process or choose another {} in the topology file."
        check_port("", self._topology.server.port, "the server's port", remedy.format("server.port"))
        if port := self._topology.meeting_port:
            check_port("", port, "the meeting point's port", remedy.format("server.meet.port"))

    # readiness

    def _wait_until_ready(self, running: dict[str, psutil.Process], timeout: float) -> None:
        waiting = self._names

        def not_ready() -> list[str]:
            nonlocal waiting
            for name in waiting:
                if not _alive(running[name]):
                    raise DeployError(
                        f"{name} stopped while it was starting. Last lines of {self.console(name)}:\n"
                        + "\n".join(f"  {line}" for line in last_lines(self.console(name)))
                    )
            waiting = [name for name in waiting if not self._is_ready(name)]
            return waiting

        if late := wait_while(not_ready, timeout, _POLL_SECONDS):
            raise DeployError(
                f"not ready after {timeout:.0f} s: {', '.join(late)}. "
                f"See {', '.join(str(self.console(name)) for name in late)}; "
                f"the sites dial {at(self._topology.server.host, self._topology.server.port)}."
                f"{proxies.remark(self._topology.server.host)}"
            )

    def _is_ready(self, name: str) -> bool:
        return self.ask(name, "/readyz") is not None

    def _agent_file(self, name: str) -> Path:
        return self._workspace(name) / AGENT_FILE

    def _agent(self, name: str) -> str | None:
        try:
            return str(json.loads(self._agent_file(name).read_bytes())["url"])
        except (OSError, ValueError, TypeError, LookupError):
            return None

    # stopping

    def _stop(self, names: Sequence[str]) -> None:
        running = self._processes()
        _end([running[name] for name in names if name in running and name != SERVER], SiteAgent.stop_seconds)
        _end([running[SERVER]] if SERVER in names and SERVER in running else [], ServerAgent.stop_seconds)
        # job processes have sessions of their own and outlive their parents by some seconds
        _end(self._on_workspaces(names), 0.0)
        self._record({name: process for name, process in running.items() if name not in names})

    def _on_workspaces(self, names: Iterable[str]) -> list[psutil.Process]:
        """NVFlare's processes on these workspaces."""
        workspaces = [self._workspace(name) for name in names]
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(works_in(process.info["cmdline"] or (), workspace) for workspace in workspaces)
        ]

    # the record of what runs

    @property
    def _record_file(self) -> Path:
        return self._folder / "processes.json"

    def _record(self, running: dict[str, psutil.Process]) -> None:
        entries = {
            name: {"pid": process.pid, "created": process.create_time()} for name, process in running.items()
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic.write(self._record_file, json.dumps(entries, indent=2) + "\n")

    def _processes(self) -> dict[str, psutil.Process]:
        """The participants that run; a process that merely inherited a recorded pid is not one of them."""
        try:
            entries = json.loads(self._record_file.read_bytes())
            recorded = {str(name): (int(e["pid"]), float(e["created"])) for name, e in entries.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return self._found()
        running = {}
        for name, (pid, created) in recorded.items():
            try:
                process = psutil.Process(pid)
                if abs(process.create_time() - created) < _CLOCK_SECONDS and _alive(process):
                    running[name] = process
            except (psutil.NoSuchProcess, ValueError, OverflowError):
                continue
        return running

    def _found(self) -> dict[str, psutil.Process]:
        """The participants that run, where the record of them is damaged."""
        return {
            name: process
            for name in self._names
            for process in self._on_workspaces([name])
            if is_participant(arguments := process.info["cmdline"]) or participant.__name__ in arguments
        }


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end(processes: Sequence[psutil.Process], grace: float) -> None:
    """Ask the processes to end, and kill what is left after ``grace`` seconds."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    job_processes.kill_late(processes, grace)


def check_port(host: str, port: int, what: str, remedy: str) -> None:
    """Check that a port of this machine is free.

    Args:
        host: address to be bound; empty for all, of both families.
        port: the port.
        what: what the port is for, with which the message begins.
        remedy: what to do where it is not free.

    Raises:
        DeployError: it is not free; the message names its owner.
    """
    try:
        listening(host, port).close()
    except OSError as error:
        reason = _owner_of(port) or error.strerror
        raise DeployError(f"{what} {port} cannot be used: {reason}. {remedy}") from None


def _owner_of(port: int) -> str | None:
    for process in psutil.process_iter(["name"]):
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:  # another user's, or gone
            continue
        if any(c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in connections):
            return f"{process.info['name']} (pid {process.pid}) listens on it"
    return None


def last_lines(file: Path, count: int = 8) -> list[str]:
    """The last lines of a log that are not empty; none where there is no log."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
            text = log.read(_LAST_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return []
    return [printable(line) for line in text.splitlines() if line.strip()][-count:]
