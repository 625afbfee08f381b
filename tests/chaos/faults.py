"""What can befall a run, and what becomes of it then: each fault knows what docs/resilience.md promises."""

import resource
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import ClassVar

import psutil
from edges import cut, cut_off, deaf, severed
from running import EVERY, Running
from running_mesh import START_SECONDS

AGAIN = "the next attempt, from the newest checkpoint that all have"
NEVER_ENDED = "the attempt goes on"


@dataclass
class Strike:
    """A fault as it happened.

    Attributes:
        site: where it is looked at how far the run is.
        iteration: how far it was there.
        struck: the time of it.
        mended: when what was struck was there again; the limit counts from here.
        begins: the least and the greatest iteration from whose checkpoint the next attempt may begin; None
            where there is none.
        remark: what else is to be told.
    """

    site: str
    iteration: int
    struck: float = field(default_factory=time.monotonic)
    mended: float | None = None
    begins: tuple[int, int] | None = None
    remark: str = ""


class Fault(ABC):
    """A fault.

    Attributes:
        title: what happens.
        promise: what becomes of the run.
        attempts: so many further ones it takes.
        outlasts: the run may have finished when it is over.
        anew: the run computes again all that it had, so the limit is for its first iteration.
        limit: seconds until the run is further than it was, from when what was struck is there again.
    """

    title: ClassVar[str]
    promise: ClassVar[str] = AGAIN
    attempts: ClassVar[int] = 1
    outlasts: ClassVar[bool] = False
    anew: ClassVar[bool] = False
    limit: ClassVar[float] = 25.0

    @abstractmethod
    def strike(self, run: Running, random: Random) -> Strike:
        """Let it happen, now."""


class JobProcess(Fault):
    title = "kill -9 of a site's job process"

    def strike(self, run: Running, random: Random) -> Strike:
        _, strike = kill_a_job(run, random)
        return strike


class TwoJobProcesses(Fault):
    title = "kill -9 of two sites' job processes at once"

    def strike(self, run: Running, random: Random) -> Strike:
        chosen = random.sample(run.sites, 2)
        jobs = [run.job_process(site) for site in chosen]
        strike = begins_again(run, chosen[0])
        for job in jobs:
            job.kill()
        return strike


class ServerJobProcess(Fault):
    title = "kill -9 of the server's job process"

    def strike(self, run: Running, random: Random) -> Strike:
        strike = begins_again(run, random.choice(run.sites))
        run.job_process("server").kill()
        strike.begins = None  # sites go on, and write checkpoints, until they know
        return strike


class Site(Fault):
    title = "kill -9 of all processes of a site, which is started again"

    def strike(self, run: Running, random: Random) -> Strike:
        site = random.choice(run.sites)
        process = run.mesh.process(site)
        family = [process, *process.children(recursive=True)]
        strike = begins_again(run, site)
        for part in family:
            part.kill()
        psutil.wait_procs(family, 5)
        run.mesh.target.up(START_SECONDS)
        strike.mended = time.monotonic()
        return strike


class SiteProcess(Fault):
    title = "kill -9 of a site's own process, which is started again"

    def strike(self, run: Running, random: Random) -> Strike:
        site = random.choice(run.sites)
        strike = begins_again(run, site)
        process = run.mesh.process(site)
        process.kill()
        psutil.wait_procs([process], 5)
        run.mesh.target.up(START_SECONDS)
        strike.mended, strike.begins = time.monotonic(), None  # its job's process may live for a while
        return strike


class Server(Fault):
    title = "kill -9 of all processes of the server, which is started again"
    outlasts = True  # sites go on to the end without it
    limit = 30.0

    def strike(self, run: Running, random: Random) -> Strike:
        strike = Strike(random.choice(run.sites), run.iteration(run.sites[0]))
        process = run.mesh.process("server")
        family = [process, *process.children(recursive=True)]
        for part in family:
            part.kill()
        psutil.wait_procs(family, 5)  # they have their ports until then
        run.mesh.target.up(START_SECONDS)
        strike.mended = time.monotonic()
        return strike


class ServerCutOff(Fault):
    title = "all that arrives at the server is lost, for longer than NVFlare waits for a site"
    promise = "the attempt goes on, also while nobody reaches the server"
    attempts = 0
    outlasts = True
    limit = 5.0

    def strike(self, run: Running, random: Random) -> Strike:
        site = random.choice(run.sites)
        strike, unheard = Strike(site, run.iteration(site)), run.unheard()
        with cut_off(run.mesh.process("server")) as count:
            # NVFlare takes a site for dead that it has not heard for 35 s
            run.wait(lambda: run.unheard() == unheard + len(run.sites), "that the server misses all sites")
            reached = run.iteration(site)
        strike.mended = time.monotonic()
        assert reached > strike.iteration + EVERY, "the sites do not go on while the server is cut off"
        strike.remark = f"{count} sockets; {site} came to iteration {reached} meanwhile"
        return strike


class Stopped(Fault):
    title = "SIGSTOP of a site's job process, and SIGCONT after some seconds"
    promise = NEVER_ENDED
    attempts = 0
    limit = 5.0

    def strike(self, run: Running, random: Random) -> Strike:
        site = random.choice(run.sites)
        strike = Strike(site, run.iteration(site))
        job = run.job_process(site)
        job.suspend()
        time.sleep(random.uniform(2, 8))  # how long it stands still is the fault itself
        job.resume()
        strike.mended = time.monotonic()
        return strike


class StoppedForLong(Fault):
    title = "SIGSTOP of a site's job process, for longer than peer_timeout"
    limit = 35.0
    """NVFlare kills a process that does not end itself after 10 s."""

    def strike(self, run: Running, random: Random) -> Strike:
        site = random.choice(run.sites)
        losses, strike, job = len(run.losses()), begins_again(run, site), run.job_process(site)
        job.suspend()
        run.wait(lambda: len(run.losses()) > losses, "its loss")
        strike.mended = time.monotonic()  # it needs not be there again: the next attempt has another one
        return strike


class WhileWriting(Fault):
    title = "kill -9 of a site's job process while it writes a checkpoint"

    def strike(self, run: Running, random: Random) -> Strike:
        site = random.choice(run.sites)
        job, folder = run.job_process(site), run.checkpoints(site)
        deadline = time.monotonic() + 30
        while not any(folder.glob("*.partial")):
            assert time.monotonic() < deadline, "no checkpoint is written"
        job.kill()
        strike = begins_again(run, site)
        strike.remark = "left " + (
            ", ".join(path.name for path in folder.glob("*.partial")) or "nothing torn"
        )
        return strike


class WhileResuming(Fault):
    title = "kill -9 of a site's job process, and of the next attempt's as soon as it is there"
    promise = "the attempt after the next, from the newest checkpoint that all have"
    attempts = 2
    limit = 2 * Fault.limit

    def strike(self, run: Running, random: Random) -> Strike:
        site = random.choice(run.sites)
        strike, job = begins_again(run, site), run.job_process(site)
        job.kill()
        run.wait(lambda: [other for other in run.job_processes(site) if other != job], "its next job process")
        (other,) = (other for other in run.job_processes(site) if other != job)
        other.kill()
        return strike


class Corrupted(Fault):
    title = "kill -9 of a site's job process, whose newest checkpoint is damaged"
    promise = "the next attempt, from the checkpoint before"

    def strike(self, run: Running, random: Random) -> Strike:
        site, strike = kill_a_job(run, random)
        newest = max(run.checkpoints(site).glob("*.safetensors"), key=lambda file: int(file.stem))
        content = bytearray(newest.read_bytes())
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        newest.write_bytes(content)
        strike.begins, strike.remark = (0, int(newest.stem) - EVERY), f"{newest.name} is damaged"
        return strike


class Emptied(Fault):
    title = "kill -9 of a site's job process, all of whose checkpoints are gone"
    promise = "the next attempt, from the start"
    anew = True

    def strike(self, run: Running, random: Random) -> Strike:
        site, strike = kill_a_job(run, random)
        for file in run.checkpoints(site).iterdir():
            file.unlink()
        strike.begins = (0, 0)
        return strike


class FullVolume(Fault):
    title = "a site finds no room for any file, and then finds it again"
    promise = "the attempt goes on without checkpoints, and its history waits in memory"
    attempts = 0
    limit = 5.0

    def strike(self, run: Running, random: Random) -> Strike:
        site, peer = edge(run, random)
        job, folder = run.job_process(site), run.checkpoints(site)
        strike = Strike(peer, run.iteration(peer))
        beyond = strike.iteration + 2 * EVERY
        pids = (run.mesh.process(site).pid, job.pid)
        limits = [resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY)) for pid in pids]
        run.wait(lambda: run.iteration(peer) > beyond, "two checkpoints without room")
        without, written = newest(folder), run.iteration(site)
        for pid, before in zip(pids, limits, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        strike.mended = time.monotonic()
        assert max(without, written) <= strike.iteration + EVERY // 2, f"{without}, {written} have found room"
        run.wait(lambda: run.iteration(site) > beyond, "the history once there is room")
        run.wait(lambda: newest(folder) > without, "a checkpoint once there is room")
        return strike


class CutEdge(Fault):
    title = "an edge's connections are cut"
    promise = NEVER_ENDED
    attempts = 0
    limit = 5.0

    def strike(self, run: Running, random: Random) -> Strike:
        site, peer = edge(run, random)
        strike = Strike(site, run.iteration(site))
        count = cut(run.job_process(site), run.job_process(peer))
        strike.remark = f"{count} connections between {site} and {peer}"
        return strike


class DeafEdge(Fault):
    title = "an edge's connections lose all that arrives, for some seconds"
    promise = NEVER_ENDED
    attempts = 0
    limit = 5.0

    def strike(self, run: Running, random: Random) -> Strike:
        site, peer = edge(run, random)
        strike = Strike(site, run.iteration(site))
        with deaf(run.job_process(site), run.job_process(peer)) as count:
            time.sleep(random.uniform(2, 5))  # how long it is deaf is the fault itself
        strike.mended = time.monotonic()
        strike.remark = f"{count} connections between {site} and {peer}"
        return strike


class RelayedEdge(Fault):
    title = "an edge is cut until it is relayed, and healed"
    promise = "the attempt goes on, and the edge is direct again"
    attempts = 0
    outlasts = True
    limit = 10.0

    def strike(self, run: Running, random: Random) -> Strike:
        site, peer = edge(run, random)
        strike = Strike(site, run.iteration(site))
        with severed(run.job_process(site), run.job_process(peer)) as count:
            run.wait(lambda: f"{site} -> {peer}: the direct link is lost" in run.log(site), "its relay")
        strike.mended = time.monotonic()
        run.wait(lambda: f"{site} -> {peer}: from now on direct again" in run.log(site), "its direct link")
        strike.remark = f"{count} connections between {site} and {peer}"
        return strike


ALL: list[type[Fault]] = [
    JobProcess,
    TwoJobProcesses,
    ServerJobProcess,
    Site,
    SiteProcess,
    Server,
    ServerCutOff,
    Stopped,
    StoppedForLong,
    WhileWriting,
    WhileResuming,
    Corrupted,
    Emptied,
    FullVolume,
    CutEdge,
    DeafEdge,
    RelayedEdge,
]


def begins_again(run: Running, site: str) -> Strike:
    """A site is struck now, and the next attempt begins from what it has, or from the checkpoint before."""
    iteration = run.iteration(site)
    last = (iteration + 2) // EVERY * EVERY  # it may be further by the time that the fault arrives
    return Strike(site, iteration, begins=(max(0, iteration // EVERY * EVERY - EVERY), last))


def kill_a_job(run: Running, random: Random) -> tuple[str, Strike]:
    """Kill the job process of a site, and wait until it is gone; returns the site, too."""
    site = random.choice(run.sites)
    strike, job = begins_again(run, site), run.job_process(site)
    job.kill()
    job.wait(5)
    return site, strike


def edge(run: Running, random: Random) -> tuple[str, str]:
    """Two sites of the ring that follow each other."""
    index = random.randrange(len(run.sites))
    return run.sites[index], run.sites[(index + 1) % len(run.sites)]


def newest(folder: Path) -> int:
    """The iteration of the newest checkpoint, 0 without any."""
    return max((int(file.stem) for file in folder.glob("*.json") if file.stem.isdecimal()), default=0)
