"""Sites as plain processes without NVFlare: what the baselines run in, and rings that NVFlare is too big for.

One process imports torch and forks the sites, so that they share its memory. They meet only over the links
that the system under test makes, and at the barriers of this module.
"""

import importlib
import json
import multiprocessing as mp
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.wan import namespaces
from flaremesh.issuing import new_key
from flaremesh.p2p import charter
from flaremesh.p2p.credentials import link_credentials
from flaremesh.p2p.nvflare.run_credential import issue
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.neighborhood import Neighborhood

ROOT = Path(__file__).parent.parent
_SECONDS = 240.0
_GATHER, _RESULT = "gather", "result"


@dataclass(frozen=True)
class Round:
    """Iterations with a vector of one length.

    Attributes:
        floats: float32 values that a site sends to each neighbour.
        iterations: that are measured.
        warm_up: that come before.
        wire: how flaremesh writes the vectors; the others know one way.
    """

    floats: int
    iterations: int
    warm_up: int
    wire: str = "exact"


@dataclass(frozen=True)
class Place:
    """Where a site's process runs.

    Attributes:
        host: address under which the others reach it.
        interface: network device that has it.
        namespace: path of the network namespace; None for the one that all share.
    """

    host: str = "127.0.0.1"
    interface: str = "lo"
    namespace: str | None = None


class Site:
    """What one process knows.

    Attributes:
        hood: its row of the mixing matrix.
        sites: names of all sites, in order.
        credentials: a run's, which the site's kit issues.
        rounds: what to do, one after the other.
        place: where it is.
        scratch: an empty folder that all sites share.
    """

    def __init__(self, hood: Neighborhood, task: Mapping[str, Any], parent: Connection):
        self.hood = hood
        self.sites = tuple(task["sites"])
        kit = Path(task["kits"]) / hood.site / "startup"
        self.rounds = [Round(**each) for each in task["rounds"]]
        self.place = Place(**task["places"].get(hood.site, {}))
        self.scratch = Path(task["scratch"])
        own = self.scratch / hood.site
        own.mkdir()
        issue(kit, own, new_key())
        self.credentials = link_credentials(kit, own, charter.read(kit))
        self._parent = parent

    def gather(self, value: Any = None) -> dict[str, Any]:
        """What every site gave; nobody goes on before all have."""
        self._parent.send((_GATHER, value))
        return dict(self._parent.recv())


def run(
    module: str,
    mesh: Mesh,
    kits: Path,
    rounds: Sequence[Round],
    folder: Path,
    places: Mapping[str, Place] | None = None,
) -> dict[str, Any]:
    """Let every site of ``mesh`` run ``module.run``; returns what each returned, by name.

    Args:
        module: what runs in a site's process.
        mesh: the sites.
        kits: folder of theirs.
        rounds: what they do.
        folder: in which they get a new one: gloo's store of another group would mislead them.
        places: where they are; None for this machine's loopback.

    Raises:
        RuntimeError: it failed; the message is what the processes printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix="scratch-"))
    task = {
        "module": module,
        "sites": mesh.sites,
        "hoods": {site: asdict(hood) for site, (hood,) in mesh.schedules.items()},
        "kits": str(kits.resolve()),
        "rounds": [asdict(each) for each in rounds],
        "scratch": str(scratch.resolve()),
        "places": {site: asdict(place) for site, place in (places or {}).items()},
    }
    threads = max(1, (os.cpu_count() or 1) // len(mesh.sites))  # as the local target sets them
    ended = subprocess.run(
        [sys.executable, "-m", "bench.processes"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        timeout=_SECONDS + 30,
    )
    if ended.returncode:
        raise RuntimeError(f"{module} with {len(mesh.sites)} sites failed:\n{ended.stderr}")
    return dict(json.loads(ended.stdout))


def _child(hood: Neighborhood, task: Mapping[str, Any], parent: Connection) -> None:
    site = Site(hood, task, parent)
    if site.place.namespace:
        namespaces.enter(site.place.namespace)
    parent.send((_RESULT, importlib.import_module(task["module"]).run(site)))


def main() -> None:
    task = json.load(sys.stdin)
    importlib.import_module(task["module"])  # what it imports is there before the fork
    context = mp.get_context("fork")
    ends, children = {}, []
    for name, hood in task["hoods"].items():
        ends[name], theirs = context.Pipe()
        child = context.Process(target=_child, args=(Neighborhood(**hood), task, theirs))
        child.start()
        theirs.close()
        children.append(child)
    deadline = time.monotonic() + _SECONDS
    try:
        while True:
            given = _all_of(ends, deadline)
            values = {name: value for name, (_, value) in given.items()}
            if {kind for kind, _ in given.values()} == {_RESULT}:
                break
            for end in ends.values():
                end.send(values)
    except (EOFError, TimeoutError) as error:
        for child in children:
            child.kill()
        sys.exit(str(error) or "a site's process ended early")
    for child in children:
        child.join()
    json.dump(values, sys.stdout)


def _all_of(ends: Mapping[str, Connection], deadline: float) -> dict[str, Any]:
    given: dict[str, Any] = {}
    while len(given) < len(ends):
        missing = {name: end for name, end in ends.items() if name not in given}
        ready = wait(list(missing.values()), max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"nothing from {', '.join(missing)} in {_SECONDS:g} s")
        given |= {name: end.recv() for name, end in missing.items() if end in ready}
    return given


if __name__ == "__main__":
    main()
