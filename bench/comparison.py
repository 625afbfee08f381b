"""What the systems do on one NVFlare mesh, taking turns."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, TypeAlias

from bench.growth import PROCESSES
from bench.mesh import Job, JobFailed, RunningMesh
from bench.plan import Plan
from bench.processes import Round, run
from bench.samples import (
    BFLOAT16,
    CPU,
    FLAREMESH,
    GLOO,
    HIDDEN,
    K_GT,
    LEARNING,
    MEETING_CPU,
    MEETING_MEMORY,
    MEMORY,
    MET,
    RELAYED,
    SCALAR,
    SCALAR_CPU,
    SERVER_SHARE,
    STOCK,
    TLS,
    TRAINING,
    VECTOR,
    Key,
    Samples,
    in_turn,
)
from flaremesh.metrics.sink import Iteration
from flaremesh.problems.digits import Digits
from flaremesh.problems.protocol import SiteContext
from flaremesh.topology.mesh import build

_LARGE = 1_000_000  # floats from which CPU, memory and the server's share say something
_CONSENSUS = "flaremesh.problems.consensus.Consensus"
_VECTOR = "bench.jobs.vector.Vector"
_DIGITS = "flaremesh.problems.digits.Digits"

Measured: TypeAlias = Mapping[int, Sequence[Mapping[str, Any]]]
"""By floats, the figures of the meter of each site."""


class Comparison:
    """All systems on one mesh; every public method is one repeat of a case.

    Args:
        mesh: that is up.
        plan: how much to do.
        samples: where the figures go.
    """

    def __init__(self, mesh: RunningMesh, plan: Plan, samples: Samples):
        self._mesh, self._plan, self._samples = mesh, plan, samples
        self._graph = build(mesh.topology)
        self._sites = len(self._graph.sites)

    def scalar(self, repeat: int) -> None:
        """A number: its consensus in NVFlare's jobs, exchanged and mixed in the others."""
        each, stock = self._plan.scalar, self._plan.stock_scalar
        systems = {
            FLAREMESH: lambda: self._run(each, _CONSENSUS),
            STOCK: lambda: self._stock_consensus(stock),
            TLS: lambda: self._processes(TLS, each),
            GLOO: lambda: self._processes(GLOO, each),
        }
        for system in in_turn(systems, repeat, f"{self._sites} sites, scalar"):
            self._keep(SCALAR, system, repeat, [each], systems[system])

    def vectors(self, repeat: int) -> None:
        """float32 vectors of several lengths; the stock package exchanges all of them in one job."""
        for _ in in_turn([STOCK], repeat, f"{self._sites} sites, vectors"):
            self._keep(VECTOR, STOCK, repeat, self._plan.vectors, self._stock_exchange)
        for each in self._plan.vectors:
            systems: dict[str, Callable[[], Measured]] = {
                FLAREMESH: partial(self._run, each, _VECTOR, repeat),
                TLS: partial(self._processes, TLS, each),
                GLOO: partial(self._processes, GLOO, each),
            }
            if each.floats >= _LARGE:
                systems[BFLOAT16] = partial(self._run, each, _VECTOR, wire="bfloat16")
                systems[MET] = partial(self._met, each, repeat)
            if each.floats == _LARGE:
                systems[RELAYED] = partial(self._run, each, _VECTOR, links="relay")
            for system in in_turn(systems, repeat, f"{self._sites} sites, {each.floats:g} floats"):
                self._keep(VECTOR, system, repeat, [each], systems[system])

    def training(self, repeat: int) -> None:
        """Unbalanced digits until every site is accurate: from submission, and from when all sites iterate.

        Gradient tracking in both packages, and beside it 20 local steps of k-gt, each with the step size of
        docs/learning.md's table.
        """
        shared = {"stepsize": 0.2, "evaluate_every": 1, "problem": {"path": _DIGITS}}
        tracking = {"algorithm": "gradient-tracking", "iterations": self._plan.training}
        local = {"algorithm": "k-gt", "local_steps": 20, "options": {"outer": 1.0}, "iterations": 20}
        jobs: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
            FLAREMESH: ("Run", {"floats": 0}, tracking),
            K_GT: ("Run", {"floats": 0}, local),
            STOCK: ("Training", {"sites": self._sites, "evaluate_every": shared["evaluate_every"]}, tracking),
        }
        floats = 2 * Digits(SiteContext("", 0, self._sites, 0)).initial().numel()  # iterate and tracker
        for system in in_turn(jobs, repeat, f"{self._sites} sites, training"):
            executor, own, fields = jobs[system]
            package = STOCK if system == STOCK else FLAREMESH
            job = self._job(package, executor, own, **shared, **fields)
            for case, accuracy in ((TRAINING, 0.9), (LEARNING, 0.93)):
                reached = _reached(accuracy, job) if job else None
                begun = (job.client["begun"] if case == TRAINING else _iterating(job)) if job else 0.0
                self._add(case, 0, "s", system, repeat, [] if reached is None else [reached - begun])
            if job and system != K_GT:
                self._share(job, Round(floats, self._plan.training, 0), system, repeat)

    def overlap(self, repeat: int) -> None:
        """dgd computes its gradient while vectors travel; dgd-cta, equal otherwise, has to wait."""
        floats, iterations, gradient = self._plan.overlap
        for on in ("cores", "device"):
            problem = {"path": _VECTOR, "args": {"dimension": floats, "gradient_seconds": gradient, "on": on}}
            figures: dict[str, list[Iteration]] = {}
            for algorithm in in_turn(["dgd", "dgd-cta"], repeat, f"{self._sites} sites, gradient on {on}"):
                fields = {"algorithm": algorithm, "stepsize": 1e-3, "evaluate_every": iterations}
                job = self._job(
                    FLAREMESH, "Run", {"floats": floats}, iterations=iterations, problem=problem, **fields
                )
                rows = [row for site in job.histories() for row in site[2:]] if job else []
                milliseconds = [1e3 * row.seconds for row in rows]
                self._add(f"{algorithm}, gradient on {on}", floats, "ms", FLAREMESH, repeat, milliseconds)
                figures[algorithm] = rows
            if all(figures.values()):
                share = _hidden(figures["dgd"], figures["dgd-cta"])
                self._add(f"{HIDDEN}, gradient on {on}", floats, "%", FLAREMESH, repeat, [share])

    def trivial(self, repeat: int) -> None:
        """A job of one iteration, and where its seconds go."""
        for system in in_turn([FLAREMESH, STOCK], repeat, f"{self._sites} sites, trivial job"):
            executor, args = ("Run", {"floats": 1}) if system == FLAREMESH else ("Consensus", {})
            job = self._job(system, executor, args)
            for phase, seconds in (_phases(job) if job else {}).items():
                self._add(f"trivial job: {phase}", 0, "s", system, repeat, [seconds])

    def _run(self, each: Round, problem: str, repeat: int | None = None, **fields: Any) -> Measured:
        """flaremesh as users run it; with ``repeat`` the server's share is kept."""
        iterations = each.warm_up + each.iterations + 1  # the meter starts with the first one's end
        args = {"dimension": each.floats}
        job = self._mesh.run(
            FLAREMESH,
            "Run",
            {"floats": each.floats, "warm_up": each.warm_up, "others": self._mesh.processes},
            problem={"path": problem, "args": args},
            iterations=iterations,
            evaluate_every=iterations,
            **fields,
        )
        if repeat is not None and each.floats >= _LARGE:
            self._share(job, each, FLAREMESH, repeat)
        return _figures(job)

    def _met(self, each: Round, repeat: int) -> Measured:
        """As ``_run``; what the meeting point needs is kept."""
        point = self._mesh.meeting_point
        before = sum(point.cpu_times()[:2])
        measured = self._run(each, _VECTOR, links="met")
        gigabytes = self._gigabytes(each.floats, each.warm_up + each.iterations + 1)
        cpu = (sum(point.cpu_times()[:2]) - before) / gigabytes
        self._add(MEETING_CPU, each.floats, "s", MET, repeat, [cpu])
        self._add(MEETING_MEMORY, each.floats, "MB", MET, repeat, [point.memory_info().rss / 1e6])
        return measured

    def measured(self, each: Round, **fields: Any) -> Measured:
        """One round with a vector, with further fields of the topology's run."""
        return self._run(each, _VECTOR, **fields)

    def _stock_consensus(self, each: Round) -> Measured:
        args = {"warm_up": each.warm_up}
        return _figures(
            self._mesh.run(STOCK, "Consensus", args, iterations=each.warm_up + each.iterations + 1)
        )

    def _stock_exchange(self) -> Measured:
        rounds = [vars(each) for each in self._plan.stock_vectors]
        return _figures(self._mesh.run(STOCK, "Exchange", {"rounds": rounds, "others": self._mesh.processes}))

    def _processes(self, system: str, each: Round) -> Measured:
        folder = self._mesh.folder
        sites = run(PROCESSES[system], self._graph, folder / "kits", [each], folder / "processes")
        return {each.floats: [figures for (figures,) in sites.values()]}

    def _job(self, system: str, executor: str, args: Mapping[str, Any], **fields: Any) -> Job | None:
        try:
            return self._mesh.run(system, executor, args, **fields)
        except JobFailed as error:
            print(f"  {error}", file=sys.stderr)
            return None

    def _keep(
        self, case: str, system: str, repeat: int, rounds: Sequence[Round], measure: Callable[[], Measured]
    ) -> None:
        try:
            measured = measure()
        except (JobFailed, RuntimeError) as error:
            print(f"  {error}", file=sys.stderr)
            measured = {}
        for each in rounds:
            sites = measured.get(each.floats, [])
            seconds = [second for site in sites for second in site["seconds"]]
            self._add(case, each.floats, "ms", system, repeat, [1e3 * second for second in seconds])
            iterations = len(sites[0]["seconds"]) if sites else 0
            if case == SCALAR and sites and system != STOCK:
                cpu = sum(site["cpu_seconds"] for site in sites) / len(sites) / iterations
                self._add(SCALAR_CPU, each.floats, "µs", system, repeat, [1e6 * cpu])
            if sites and each.floats >= _LARGE:
                cpu = sum(site["cpu_seconds"] for site in sites) / self._gigabytes(each.floats, iterations)
                self._add(CPU, each.floats, "s", system, repeat, [cpu])
                self._add(
                    MEMORY, each.floats, "MB", system, repeat, [site["peak_bytes"] / 1e6 for site in sites]
                )

    def _share(self, job: Job, each: Round, system: str, repeat: int) -> None:
        exchanged = self._gigabytes(each.floats, each.warm_up + each.iterations)
        self._add(SERVER_SHARE, each.floats, "%", system, repeat, [100 * job.server_bytes / 1e9 / exchanged])

    def _gigabytes(self, floats: int, iterations: int) -> float:
        """Of float32 that all sites together hand to their neighbours."""
        return 4e-9 * floats * iterations * self._graph.graph.number_of_edges()

    def _add(
        self, case: str, floats: int, unit: str, system: str, repeat: int, figures: Sequence[float]
    ) -> None:
        self._samples.add(Key(case, self._sites, floats, unit), system, repeat, figures)


def _figures(job: Job) -> Measured:
    sites = [site.get("figures", {}) for site in job.sites]
    if any(figures["cpu_seconds"] is None for site in sites for figures in site.values()):
        raise JobFailed(
            f"a site stopped early, which the stock package does not call a failure: {job.folders}"
        )
    return {int(length): [site[length] for site in sites] for length in sites[0]}


def _reached(accuracy: float, job: Job) -> float | None:
    """When every site's evaluation was as good for the first time."""
    sites = [[at for at, reached in site["accuracies"] if reached >= accuracy] for site in job.sites]
    return max(times[0] for times in sites) if all(sites) else None


def _iterating(job: Job) -> float:
    """When all sites had begun the algorithm."""
    begun: float = max(site["tasks"]["run_algorithm"][0] for site in job.sites)
    return begun


def _hidden(overlapping: Sequence[Iteration], waiting: Sequence[Iteration]) -> float:
    """Per cent of the exchange that is not seen any more when it overlaps with the gradient."""
    exchange = median(row.seconds - row.gradient_seconds for row in waiting)
    saved = median(row.seconds for row in waiting) - median(row.seconds for row in overlapping)
    return 100 * saved / exchange


def _phases(job: Job) -> dict[str, float]:
    """Seconds of each, and of the whole."""
    client, algorithms = job.client, [site["tasks"]["run_algorithm"] for site in job.sites]
    marks = {
        "submitted": client["submitted"],
        "RUNNING": client["running"],
        "controller starts": job.server["control_flow"][0],
        "all sites start": max(begun for begun, _ in algorithms),
        "all sites end": max(ended for _, ended in algorithms),
        "result is here": client["result"],
    }
    times = [client["begun"], *marks.values()]
    spent = {phase: end - start for phase, start, end in zip(marks, times, times[1:], strict=False)}
    return spent | {f"submit to {end}": client[end] - client["begun"] for end in ("result", "finished")}
