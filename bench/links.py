"""Times flaremesh against nvflare.app_opt.p2p on the same meshes, and writes build/bench/links.json.

One mesh per size is provisioned and brought up once: a real NVFlare server and sites, mutual TLS, loopback.
The jobs of the two packages take turns on it, so that whatever else the machine does hits both.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.jobs.clock import CLOCK
from flaremesh.deploy.local import LocalTarget
from flaremesh.deploy.session import AdminSession, connect
from flaremesh.p2p.outcome import RUN_FOLDER
from flaremesh.provision.job import write_job
from flaremesh.provision.kits import provision
from flaremesh.topology.schema import Topology

ROOT = Path(__file__).parent.parent
FLAREMESH, STOCK = "flaremesh", "nvflare.app_opt.p2p"
SYSTEMS = {FLAREMESH: "flaremesh", STOCK: "stock"}  # prefix of the modules in bench.jobs

CASES = ("consensus", "exchange", "trivial")

_WARM_UP = {1: 20, 1_000: 20, 1_000_000: 2, 10_000_000: 1}  # first iterations, by floats, that do not count
_POLL_SECONDS = 0.2  # asking costs the cores that are measured some milliseconds
_JOB_SECONDS = 240.0
_LINK_PORTS = "28100-28999"  # each run of each site takes one
_UP_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        sites: sizes of mesh.
        exchanges: iterations by floats.
        consensus: iterations.
        repeats: jobs of each kind and system.
    """

    sites: tuple[int, ...] = (2, 4)
    exchanges: Mapping[int, int] = field(default_factory=lambda: {1_000: 100, 1_000_000: 12, 10_000_000: 4})
    consensus: int = 200
    repeats: int = 2


QUICK = Plan(sites=(2,), exchanges={1_000: 40}, consensus=40, repeats=1)


@dataclass(frozen=True)
class Row:
    """A line of links.json: of iterations at all sites in all repeats, or of whole jobs.

    Attributes:
        case: consensus, exchange, or a phase of a trivial job.
        sites: size of the mesh.
        floats: float32 values in a message.
        system: whose figures.
        median, p95: in ``unit``, None without samples; p95 is the bad end, so of a rate the low one.
        unit: it/s, ms or s.
        repeats: jobs that gave figures.
        samples: figures.
        failed: jobs that did not finish.
    """

    case: str
    sites: int
    floats: int
    system: str
    median: float | None
    p95: float | None
    unit: str
    repeats: int
    samples: int
    failed: int


@dataclass
class Samples:
    """Seconds of one case and system, over all jobs."""

    seconds: list[float] = field(default_factory=list)
    repeats: int = 0
    failed: int = 0


Key = tuple[str, int, int, str]
"""Case, sites, floats, system."""


def topology_of(sites: int, links: str) -> Topology:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # the stock package takes the number of a site from its name
    names = [f"site-{number}" for number in range(1, sites + 1)]
    return Topology.model_validate(
        {
            "apiVersion": "flaremesh/v1",
            "name": f"bench-{sites}",
            "server": {"host": "localhost", "port": port, "org": "bench"},
            "admins": [{"email": "admin@bench.org", "org": "bench", "role": "project_admin"}],
            "sites": [
                {"name": name, "org": "bench", "link": {"host": "localhost", "ports": _LINK_PORTS}}
                for name in names
            ],
            "graph": {"kind": "ring" if sites > 2 else "path"},
            "code": {"packages": ["bench"]},
            "run": {
                "algorithm": "consensus",
                "iterations": 1,
                "links": links,
                "problem": {"path": "flaremesh.problems.consensus.Consensus"},
            },
        }
    )


@contextmanager
def running(topology: Topology, folder: Path) -> Iterator[tuple[AdminSession, LocalTarget]]:
    """The provisioned mesh, up."""
    shutil.rmtree(folder, ignore_errors=True)
    provision(topology, folder)
    target = LocalTarget(topology, folder)
    try:
        target.up(_UP_SECONDS)
        with connect(topology, folder) as session:
            yield session, target
    finally:
        target.down()


class Bench:
    """Runs jobs on one mesh and collects what they measured."""

    def __init__(self, topology: Topology, folder: Path, session: AdminSession, target: LocalTarget):
        self._topology, self._folder, self._session, self._target = topology, folder, session, target
        self._sites = [site.name for site in topology.sites]
        self.samples: defaultdict[Key, Samples] = defaultdict(Samples)

    def exchange(self, system: str, rounds: Mapping[int, int]) -> None:
        planned = [[floats, iterations + _WARM_UP[floats]] for floats, iterations in rounds.items()]
        clocks, failed = self._run(system, "Exchange", {"rounds": planned})
        self._collect("exchange", system, rounds, clocks, failed)

    def consensus(self, system: str, iterations: int) -> None:
        clocks, failed = self._run(system, "Consensus", {}, iterations + _WARM_UP[1])
        self._collect("consensus", system, {1: iterations}, clocks, failed)

    def trivial(self, system: str) -> None:
        """A job of one iteration, and where its seconds go."""
        clocks, failed = self._run(system, "Consensus", {})
        if failed:
            self._warn(system)
            return
        client = clocks["client"]
        sites = [clocks[site]["run_algorithm"] for site in self._sites]
        marks = {
            "submitted": client["submitted"],
            "RUNNING": client["running"],
            "controller starts": clocks["server"]["control_flow"][0],
            "all sites start": max(begun for begun, _ in sites),
            "all sites end": max(ended for _, ended in sites),
            "result is here": client["result"],
        }
        before = client["begun"]
        for phase, at in marks.items():
            self._add(f"trivial job: {phase}", 1, system, [at - before])
            before = at
        for total in ("result", "finished"):
            self._add(f"trivial job, submit to {total}", 1, system, [client[total] - client["begun"]])

    def _collect(
        self, case: str, system: str, rounds: Mapping[int, int], clocks: Mapping[str, Any], failed: bool
    ) -> None:
        for floats, iterations in rounds.items():
            seconds = [clocks.get(site, {}).get("seconds", {}).get(str(floats), []) for site in self._sites]
            whole = all(len(site) >= iterations for site in seconds)
            self._add(
                case, floats, system, [s for site in seconds for s in site[_WARM_UP[floats] :]], not whole
            )
        if failed:
            self._warn(system)

    def _warn(self, system: str) -> None:
        print(f"  {system}: the job failed; see {self._folder}", file=sys.stderr)

    def _add(self, case: str, floats: int, system: str, seconds: list[float], failed: bool = False) -> None:
        samples = self.samples[case, len(self._sites), floats, system]
        samples.seconds += seconds
        samples.repeats += bool(seconds)
        samples.failed += failed

    def _run(
        self, system: str, executor: str, args: Mapping[str, Any], iterations: int = 1
    ) -> tuple[dict[str, Any], bool]:
        """Run one job; returns the clocks of sites, server and this client, and whether it failed."""
        job = self._folder / "job"
        self._write_job(job, system, executor, args, iterations)
        client = {"begun": time.time()}
        run_id = self._session.submit(job)
        client["submitted"] = time.time()
        deadline = time.monotonic() + _JOB_SECONDS
        while not (state := self._session.job(run_id)).ended:
            if state.status == "RUNNING":
                client.setdefault("running", time.time())
                # flaremesh's controller tells the result; of the stock package's it is downloaded at the end
                if system == FLAREMESH and (self._session.progress(run_id) or {}).get("result"):
                    client.setdefault("result", time.time())
            if time.monotonic() > deadline:
                self._session.abort(run_id, _UP_SECONDS)
            time.sleep(_POLL_SECONDS)
        client["finished"] = time.time()
        result = self._session.download(run_id, self._folder / "runs")
        client.setdefault("result", time.time())
        clocks = {"client": client, "server": _clock(result / "workspace" / RUN_FOLDER)}
        clocks |= {site: _clock(self._target.run_folder(site, run_id)) for site in self._sites}
        return clocks, not state.status.endswith("COMPLETED")

    def _write_job(
        self, job: Path, system: str, executor: str, args: Mapping[str, Any], iterations: int
    ) -> None:
        """Flaremesh's job, with the executor and the controller of ``system``."""
        run = self._topology.run.model_copy(update={"iterations": iterations})
        write_job(self._topology.model_copy(update={"run": run}), job, name=f"bench-{executor}")
        prefix = f"bench.jobs.{SYSTEMS[system]}"
        server_file = job / "app_server/config/config_fed_server.json"
        site_file = job / "app_sites/config/config_fed_client.json"
        server, site = json.loads(server_file.read_text()), json.loads(site_file.read_text())
        server["workflows"][0]["path"] = f"{prefix}_controllers.Controller"
        site["executors"][0]["executor"] = {"path": f"{prefix}_executors.{executor}", "args": args}
        if system == STOCK:
            del server["server"], server["dead_client_grace_period"]  # its jobs are written without
        server_file.write_text(json.dumps(server))
        site_file.write_text(json.dumps(site))


def _clock(run_folder: Path | None) -> dict[str, Any]:
    file = run_folder and run_folder / CLOCK
    return json.loads(file.read_text()) if file and file.exists() else {}


def rows_of(samples: Mapping[Key, Samples]) -> Iterator[Row]:
    for (case, sites, floats, system), found in samples.items():
        unit, scale = {"exchange": ("ms", 1e3)}.get(case, ("s", 1.0))
        figures = [scale * seconds for seconds in found.seconds]
        median = statistics.median(figures) if figures else None
        p95 = statistics.quantiles(figures, n=20, method="inclusive")[-1] if len(figures) > 1 else median
        if case == "consensus":
            unit, median, p95 = "it/s", median and 1 / median, p95 and 1 / p95
        yield Row(case, sites, floats, system, median, p95, unit, found.repeats, len(figures), found.failed)


def table_of(rows: list[Row]) -> Table:
    table = Table(title="loopback; ratio of medians, above 1: flaremesh is better")
    table.add_column("case", no_wrap=True)
    for title in ("sites", "floats", "unit", *(f"{system}\nmedian (p95)" for system in SYSTEMS), "ratio"):
        table.add_column(title, justify="right")
    pairs: defaultdict[tuple[str, int, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        pairs[row.case, row.sites, row.floats][row.system] = row
    for (case, sites, floats), pair in pairs.items():
        ours, stock = pair.get(FLAREMESH), pair.get(STOCK)
        unit = (ours or stock).unit
        table.add_row(
            case, str(sites), f"{floats:g}", unit, _figures(ours), _figures(stock), _ratio(ours, stock)
        )
    return table


def _figures(row: Row | None) -> str:
    if row is None or row.median is None:
        return "failed"
    failed = f"\n{row.failed} of {row.failed + row.repeats} failed" if row.failed else ""
    return f"{row.median:.4g} ({row.p95:.4g}){failed}"


def _ratio(ours: Row | None, stock: Row | None) -> str:
    if not (ours and stock and ours.median and stock.median):
        return ""
    ratio = stock.median / ours.median
    return f"{1 / ratio if ours.unit == 'it/s' else ratio:.1f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.links", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sites, short messages, one repeat")
    parser.add_argument("--sites", type=int, action="append", help="only this size of mesh; may be repeated")
    parser.add_argument("--case", choices=CASES, action="append", help="only this case; may be repeated")
    parser.add_argument("--repeats", type=int, help="jobs of each kind and system")
    parser.add_argument(
        "--links",
        choices=("auto", "direct", "relay"),
        default="direct",
        help="of flaremesh; the stock relays",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench", help="folder")
    given = parser.parse_args(arguments)
    cases = given.case or CASES
    plan = QUICK if given.quick else Plan()
    # the job processes import bench from here
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    samples: dict[Key, Samples] = {}
    sizes = given.sites or plan.sites
    for sites in sizes:
        topology, folder = topology_of(sites, given.links), given.output / f"mesh-{sites}"
        with running(topology, folder) as (session, target):
            bench = Bench(topology, folder, session, target)
            for repeat in range(given.repeats or plan.repeats):
                for system in SYSTEMS:
                    print(f"{sites} sites, repeat {repeat + 1}: {system}", file=sys.stderr)
                    if "consensus" in cases:
                        bench.consensus(system, plan.consensus)
                    if "exchange" in cases:
                        bench.exchange(system, plan.exchanges)
                    if "trivial" in cases and sites == min(sizes):
                        bench.trivial(system)
        samples |= bench.samples
    rows = list(rows_of(samples))
    (given.output / "links.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    Console(width=120).print(table_of(rows))


if __name__ == "__main__":
    main()
