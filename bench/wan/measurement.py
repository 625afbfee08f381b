"""Cases measured in turns, each group of processes on a new network: kernels remember how fast a path was."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from bench.growth import PROCESSES
from bench.mesh import JobFailed
from bench.processes import Round, run
from bench.samples import FLAREMESH, GLOO, MET, STOCK, TLS, in_turn
from bench.topologies import topology_of
from bench.wan import jobs, speeds, trial
from bench.wan.cases import Case, system
from bench.wan.network import joined
from bench.wan.result import Result
from flaremesh.gossip.encodings import message_bytes
from flaremesh.provision.kits import provision
from flaremesh.provision.prediction import Lines, Load
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Wire

_TRIAL_SECONDS = 2.0


class Measurement:
    """Measures cases.

    Args:
        cases: what to measure.
        wires: of flaremesh.
        congestion: name of TCP's congestion control.
        folder: for kits and scratch.
        with_jobs: whether what needs NVFlare's server is measured too: the stock package, edges that meet
            beside it, and training.

    Attributes:
        results: so far.
        lines: what each group of processes made of its network.
        trainings: seconds, by case and system, of each network and turn.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        wires: tuple[str, ...],
        congestion: str,
        folder: Path,
        *,
        with_jobs: bool = False,
    ):
        self._systems = (FLAREMESH, GLOO, TLS, *((STOCK, MET) if with_jobs else ()))
        self._cases, self._wires, self._congestion, self._folder = cases, wires, congestion, folder
        self.results: list[Result] = []
        self.lines: list[dict[str, Any]] = []
        self.trainings: list[dict[str, Any]] = []
        self._with_jobs = with_jobs
        provision(topology_of(max(case.sites for case in cases)), folder)

    def trials(self) -> Iterator[dict[str, Any]]:
        """Whether each network is what was asked for."""
        for way in dict.fromkeys(case.way for case in self._cases):
            with joined(("one", "other"), way.shape, self._congestion) as network:
                found = trial.between(network, "one", "other", int(_TRIAL_SECONDS * way.rate / 8))
            yield {"way": way.name, "asked": asdict(way), "found": asdict(found)}

    def repeat(self, turn: int) -> None:
        """Everything once."""
        for case in self._cases:
            for name in in_turn(self._systems, turn, f"{case.way.name}, {case.sites} sites"):
                rounds = case.rounds(self._wires, turn) if name == FLAREMESH else list(case.lengths)
                predicted: list[float | None] = [None] * len(rounds)
                try:
                    if name in (STOCK, MET):
                        rounds = case.stock_rounds() if name == STOCK else rounds
                        figures = jobs.exchange(name, case, rounds, self._congestion, self._folder / "jobs")
                    else:
                        if name == FLAREMESH:
                            predicted = self._predicted(case, rounds)
                        figures = self._processes(case, name, turn, rounds)
                except (RuntimeError, JobFailed) as error:
                    print(f"  {error}", file=sys.stderr)
                    figures = [[] for _ in rounds]
                for each, sites, seconds in zip(rounds, figures, predicted, strict=True):
                    called = system(each.wire) if name == FLAREMESH else name
                    self.results.append(replace(_result(case, each, called, turn, sites), predicted=seconds))

    def train(self, turn: int) -> None:
        """Learn unbalanced digits with the largest ring on each network, beside the stock package."""
        if not self._with_jobs:
            return
        largest = {case.way: case for case in sorted(self._cases, key=lambda case: case.sites)}
        for way, case in largest.items():
            print(f"{way.name}, {case.sites} sites, turn {turn + 1}: training", file=sys.stderr)
            try:
                seconds = jobs.train(case, turn, self._congestion, self._folder / "jobs")
            except JobFailed as error:
                print(f"  {error}", file=sys.stderr)
                seconds = {}
            self.trainings.append({"way": way.name, "sites": case.sites, "turn": turn, "seconds": seconds})

    def _predicted(self, case: Case, rounds: Sequence[Round]) -> list[float | None]:
        """Seconds of an iteration of each round."""
        topology = topology_of(case.sites)
        mesh = build(topology)
        with joined(mesh.sites, case.way.shape, self._congestion) as network:
            lines = Lines(speeds.measured(topology, self._folder / "kits", self._folder, network.places))
        return [lines.seconds(mesh, each.wire, [_load(each)]) for each in rounds]

    def _processes(
        self, case: Case, name: str, turn: int, rounds: Sequence[Round]
    ) -> list[list[dict[str, Any]]]:
        """Of each round, the figures of every site."""
        mesh = build(topology_of(case.sites))
        kits = self._folder / "kits"
        with joined(mesh.sites, case.way.shape, self._congestion) as network:
            sites = run(PROCESSES[name], mesh, kits, rounds, self._folder, network.places)
            group = {"way": case.way.name, "sites": case.sites, "system": name, "turn": turn}
            self.lines.append(group | network.figures())
        return [[site[number] for site in sites.values()] for number in range(len(rounds))]


def _load(each: Round) -> Load:
    vector = torch.empty(each.floats, device="meta")
    return Load(message_bytes(Wire.of(each.wire), [vector]), each.floats)


def _result(case: Case, each: Round, name: str, turn: int, figures: Sequence[Mapping[str, Any]]) -> Result:
    length = next((site["message_bytes"] for site in figures if "message_bytes" in site), 4 * each.floats)
    records = [record for site in figures for record in site.get("parts", ())]
    names = ("wait_seconds", "send_seconds", "mix_seconds")
    return Result(
        case.way.name,
        case.sites,
        each.floats,
        name,
        turn,
        case.neighbours * length,
        mean(second for site in figures for second in site["seconds"]) if figures else None,
        {part: median(record[part] for record in records) for part in names} if records else {},
    )
