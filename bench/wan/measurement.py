"""Cases measured in turns, each group of processes on a new network: kernels remember how fast a path was."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench.growth import PROCESSES
from bench.processes import Round, run
from bench.samples import FLAREMESH, GLOO, TLS, in_turn
from bench.topologies import topology_of
from bench.wan import trial
from bench.wan.cases import Case, system
from bench.wan.network import joined
from bench.wan.result import Result
from flaremesh.provision.kits import provision
from flaremesh.topology.mesh import build

_TRIAL_SECONDS = 2.0


class Measurement:
    """Measures cases.

    Args:
        cases: what to measure.
        wires: of flaremesh.
        congestion: name of TCP's congestion control.
        folder: for kits and scratch.

    Attributes:
        results: so far.
        lines: what each group of processes made of its network.
    """

    def __init__(self, cases: Sequence[Case], wires: tuple[str, ...], congestion: str, folder: Path):
        self._cases, self._wires, self._congestion, self._folder = cases, wires, congestion, folder
        self.results: list[Result] = []
        self.lines: list[dict[str, Any]] = []
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
            for name in in_turn((FLAREMESH, GLOO, TLS), turn, f"{case.way.name}, {case.sites} sites"):
                self._measure(case, name, turn)

    def _measure(self, case: Case, name: str, turn: int) -> None:
        rounds = case.rounds(self._wires, turn) if name == FLAREMESH else list(case.lengths)
        mesh = build(topology_of(case.sites))
        with joined(mesh.sites, case.way.shape, self._congestion) as network:
            kits = self._folder / "kits"
            try:
                sites = run(PROCESSES[name], mesh, kits, rounds, self._folder, network.places)
            except RuntimeError as error:
                print(f"  {error}", file=sys.stderr)
                sites = {}
            group = {"way": case.way.name, "sites": case.sites, "system": name, "turn": turn}
            self.lines.append(group | network.figures())
        for number, each in enumerate(rounds):
            figures = [site[number] for site in sites.values()]
            called = system(each.wire) if name == FLAREMESH else name
            self.results.append(_result(case, each, called, turn, figures))


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
