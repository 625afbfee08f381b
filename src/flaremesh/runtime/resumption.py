"""Whether a run goes on from its checkpoints as if nothing had happened: tried in the simulator."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from flaremesh.errors import FlaremeshError
from flaremesh.metrics.sink import Evaluation, Logged
from flaremesh.record import finite_or_none
from flaremesh.runtime.checkpoint import Checkpoint, Checkpoints
from flaremesh.runtime.history import History
from flaremesh.runtime.simulate import Simulation, simulation_of
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import Run


class NoCheckpoint(FlaremeshError):
    """No checkpoint can be taken of the run; the message names the site and the reason."""


@dataclass(frozen=True)
class Difference:
    """What is first to differ between two runs.

    Attributes:
        site: the site's name.
        iteration: how many iterations were done.
        what: words such as "its loss is 0.5 and not 0.25"; the second is that of the undisturbed run.
    """

    site: str
    iteration: int
    what: str


@dataclass(frozen=True)
class Resumption:
    """What came of a run with a break.

    Attributes:
        broken_after: the iterations that were done then.
        difference: from the run without; None if they are, bit for bit, the same.
    """

    broken_after: int
    difference: Difference | None

    @property
    def repeatable(self) -> bool:
        """Whether both were the same up to the break: else no two runs are, broken off or not."""
        return self.difference is None or self.difference.iteration >= self.broken_after


def resumption_of(run: Run, mesh: Mesh) -> Resumption:
    """Run once without and once with a break in the middle, each time with a problem that is newly built.

    What an installed module keeps outlives the break here, as this process does, but not at a site.

    Raises:
        NoCheckpoint: none can be taken.
        FlaremeshError: as simulation_of raises.
    """
    with simulation_of(run, mesh) as simulation:
        simulation.run()
        straight = _Outcome.of(simulation)
        done = simulation.snapshots[-1].iteration
    if not done:
        raise NoCheckpoint(f"there is nothing to resume: the run {simulation.ended}")
    middle = max(1, done // 2)
    with TemporaryDirectory(prefix="flaremesh-") as folder:
        checkpoints = {
            site: Checkpoints(Path(folder, str(number)), site) for number, site in enumerate(mesh.schedules)
        }
        with simulation_of(run, mesh, middle, checkpoints) as simulation:
            for _ in islice(simulation.steps(), middle):
                pass
            resume = {site: _taken(simulation, site, checkpoints[site], middle) for site in checkpoints}
        with simulation_of(run, mesh, resume=resume) as simulation:
            simulation.run()
            return Resumption(middle, straight.difference(_Outcome.of(simulation)))


@dataclass(frozen=True)
class _Outcome:
    """What a run leaves behind, by site."""

    histories: Mapping[str, History]
    models: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def of(cls, simulation: Simulation) -> "_Outcome":
        models = {name: site.problem.state(site.estimate) for name, site in simulation.sites.items()}
        return cls(simulation.histories, models)

    def difference(self, other: "_Outcome") -> Difference | None:
        """What is first to differ in the other one, of the same sites."""
        return min(self._differences(other), key=lambda found: found.iteration, default=None)

    def _differences(self, other: "_Outcome") -> Iterator[Difference]:
        """The first of each site."""
        for site, history in self.histories.items():
            theirs = _values(other.histories[site])
            for (iteration, name), value in _values(history).items():
                if theirs.get((iteration, name)) != value:
                    what = f"its {name} is {theirs.get((iteration, name))} and not {value}"
                    yield Difference(site, iteration, what)
                    break
            else:
                for name, tensor in self.models[site].items():
                    if not _identical(tensor, other.models[site][name]):
                        yield Difference(site, history.last_iteration, f"its model differs in {name}")
                        break


def _values(history: History) -> dict[tuple[int, str], Any]:
    """What a history says apart from times, in the order of the iterations."""
    values: dict[tuple[int, str], Any] = {}
    for record in history.ordered():
        if isinstance(record, Evaluation):
            values |= {(record.iteration, name): finite_or_none(v) for name, v in record.metrics.items()}
        elif isinstance(record, Logged):
            where = f"logged at step {record.step}"
            values |= {
                (record.iteration, f"{name}, {where},"): finite_or_none(v)
                for name, v in record.logged.items()
            }
        else:
            values[record.iteration, "training loss"] = finite_or_none(record.loss)
            values[record.iteration, "consensus distance"] = finite_or_none(record.consensus_distance)
    return values


def _identical(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    ours, theirs = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(ours, theirs)


def _taken(simulation: Simulation, site: str, checkpoints: Checkpoints, iteration: int) -> Checkpoint:
    taking = simulation.sites[site].checkpointing
    assert taking is not None, "it was given checkpoints"
    taking.wait()
    if taking.failure:
        raise NoCheckpoint(f"there can be no checkpoint of {site}: {taking.failure}")
    return checkpoints.read(iteration)
