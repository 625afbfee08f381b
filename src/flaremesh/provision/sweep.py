"""A grid of runs in the simulator: one trial for each way to combine the values of some fields."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from flaremesh.errors import FlaremeshError
from flaremesh.provision.payload import loads
from flaremesh.provision.plan import check
from flaremesh.record import finite_or_none
from flaremesh.runtime.simulate import Simulation, simulation_of
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import Topology, Until
from flaremesh.topology.validation import validate


class SweepError(FlaremeshError):
    """A topology file cannot have a field or a value that is to be tried."""

    exit_code = 2


@dataclass(frozen=True)
class Trial:
    """What came of one combination.

    Attributes:
        fields: what was set, by its path in the topology file.
        iterations: that were done.
        reached: whether all sites have come to the target of run.until; None without one.
        sent_bytes: of vectors, by the site that sends most, till then.
        consensus_distance: ‖X − JX‖_F of the sites' estimates in the end; None where it is not finite.
        metrics: of each site's last evaluation the least value.
        problem: why there is nothing to tell, or not all; None where all went well.
    """

    fields: Mapping[str, Any]
    iterations: int = 0
    reached: bool | None = None
    sent_bytes: int = 0
    consensus_distance: float | None = None
    metrics: Mapping[str, float] | None = None
    problem: str | None = None


def combinations(varied: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every way to take one value of each field, the last field's changing first."""
    return [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]


def with_fields(topology: Topology, fields: Mapping[str, Any]) -> Topology:
    """The topology with other values at some paths, such as ``run.stepsize`` or ``graph.kind``.

    Raises:
        SweepError: a topology file cannot have them.
    """
    document = topology.model_dump(mode="json", exclude_unset=True)
    for path, value in fields.items():
        *folders, name = path.split(".")
        place = document
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise SweepError(f"{path} is no field of a topology file: {folder} has no fields of its own")
        place[name] = value
    changed, mistakes = validate(Topology, document, lambda _: None)
    if changed is None:
        first = mistakes[0]
        raise SweepError(f"{'.'.join(map(str, first.location))}: {first.problem}; {first.remedy}")
    return changed


def sweep(trials: Sequence[Topology], fields: Sequence[Mapping[str, Any]]) -> Iterator[Trial]:
    """Simulate each topology; one that cannot run, or does not end, is told of and left behind."""
    for topology, chosen in zip(trials, fields, strict=True):
        try:
            trial = _tried(topology, chosen)
        except FlaremeshError as error:
            trial = Trial(chosen, problem=str(error))
        yield trial


def _tried(topology: Topology, fields: Mapping[str, Any]) -> Trial:
    mesh = check(topology)
    sent = _sent_bytes(topology, mesh)
    with simulation_of(topology.run, mesh) as simulation:
        return _ended(simulation, sent, fields, topology.run.until)


def _sent_bytes(topology: Topology, mesh: Mesh) -> float:
    """Of an iteration, by the site that sends most."""
    ((_, messages),) = loads(topology, [topology.run.wire])
    most = max(
        sum(len(hood.out) for hood in schedule) / len(schedule) for schedule in mesh.schedules.values()
    )
    return most * sum(message.bytes for message in messages)


def _ended(simulation: Simulation, sent: float, fields: Mapping[str, Any], until: Until | None) -> Trial:
    problem = None
    try:
        simulation.run()
    except FlaremeshError as error:
        problem = str(error)
    last = simulation.snapshots[-1]
    return Trial(
        fields,
        last.iteration,
        simulation.ending == "target" if until and until.targets else None,
        round(last.iteration * sent),
        finite_or_none(last.consensus_distance),
        {name: least for name, (least, _) in simulation.metric_ranges().items()},
        problem,
    )
