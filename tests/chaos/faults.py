"""What can befall a run, and what becomes of it then: each fault knows what docs/resilience.md promises."""

import time
from dataclasses import dataclass, field
from random import Random

import psutil
from running import Running

JOB_SECONDS = 25.0
"""From a killed process of a job to the next iteration, at most."""


@dataclass
class Strike:
    """A fault as it happened.

    Attributes:
        site: where how far the run is is looked at.
        iteration: of that site, when it was struck.
        struck: the time of it.
        mended: when what was struck was there again; the limit counts from here.
        remark: what else is to be told.
    """

    site: str
    iteration: int
    struck: float = field(default_factory=time.monotonic)
    mended: float = 0.0
    remark: str = ""


class Fault:
    """A fault.

    Attributes:
        title: what happens.
        promise: what becomes of the run.
        attempts: so many further ones it takes.
        limit: seconds until the run is further than it was, from when what was struck is there again.
    """

    title: str
    promise = "the next attempt, from the newest checkpoint that all have"
    attempts = 1
    limit = JOB_SECONDS

    def strike(self, run: Running, random: Random) -> Strike:
        """Let it happen, now."""
        raise NotImplementedError


class JobProcess(Fault):
    title = "kill -9 of a site's job process"

    def strike(self, run: Running, random: Random) -> Strike:
        site = random.choice(run.sites)
        strike = Strike(site, run.iteration(site))
        job(run, site).kill()
        return strike


def job(run: Running, site: str) -> psutil.Process:
    """The process of the run's last attempt at a participant."""
    return run.mesh.job_process(site, run.attempts(run.sites[0])[-1])
