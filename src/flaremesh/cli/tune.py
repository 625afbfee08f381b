"""``flaremesh tune``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from flaremesh.cli.options import AsJson, TopologyFile, duration, load, measurement_in, name_code
from flaremesh.cli.outputs import terminal

if TYPE_CHECKING:
    from flaremesh.provision.tuning import Choice, Tuning
    from flaremesh.topology.schema import Topology

_ROWS = 10  # of a table for people; --json has all


def tune(
    topology: TopologyFile,
    measured: Annotated[
        Path, typer.Option("--measured", metavar="FILE", help="What `flaremesh doctor --measure` wrote.")
    ],
    as_json: AsJson = False,
) -> None:
    """Propose the graph and the wire with which the sites agree soonest, of the edges that were measured.

    And local steps, where the algorithm has them: so many that a site computes as long as it exchanges. The
    topology file stays as it is. The problem is built, to tell how long messages and gradients are.
    """
    loaded = load(topology, executes=True)
    measurement = measurement_in(measured)
    name_code(loaded, topology.parent)
    from flaremesh.provision.payload import loads
    from flaremesh.provision.plan import check
    from flaremesh.provision.prediction import wires_of
    from flaremesh.provision.tuning import tune as tuned

    check(loaded)
    tuning = tuned(loaded, measurement, loads(loaded, wires_of(loaded.run)))
    steps = _local_steps(loaded, tuning)
    if as_json:
        typer.echo(json.dumps(_document(tuning, steps), indent=2))
    else:
        _show(loaded, tuning, steps)


def _local_steps(topology: "Topology", tuning: "Tuning") -> int | None:
    """How many to take with what is proposed, else with what is in the file; None where there are none."""
    from flaremesh import algorithms
    from flaremesh.provision.payload import step_seconds
    from flaremesh.provision.tuning import local_steps

    choice = tuning.proposal or tuning.now
    if choice is None or not hasattr(algorithms.configured(topology.run), "local_steps"):
        return None
    return local_steps(choice.time.seconds, step_seconds(topology))


def _document(tuning: "Tuning", steps: int | None) -> dict[str, Any]:
    def plain(choice: "Choice | None") -> dict[str, Any] | None:
        if choice is None:
            return None
        graph = choice.graph.model_dump(mode="json", exclude_defaults=True)
        return {"graph": graph, "weights": choice.weights, "edges": choice.edges} | asdict(choice.time)

    return {
        "now": plain(tuning.now),
        "proposal": plain(tuning.proposal),
        "choices": [plain(choice) for choice in tuning.choices],
        "local_steps": steps,
    }


def _show(topology: "Topology", tuning: "Tuning", steps: int | None) -> None:
    from rich import box
    from rich.table import Table

    table = Table("graph", "links", "wire", "an iteration", "agreed to 1e-3", box=box.SIMPLE_HEAD)
    shown = list(tuning.choices[:_ROWS])
    if tuning.now and tuning.now not in shown:
        shown.append(tuning.now)
    for choice in shown:
        time = choice.time
        agreed = "never" if time.mixing_seconds is None else duration(time.mixing_seconds)
        name = _name(choice) + (" (the file's)" if choice == tuning.now else "")
        table.add_row(name, str(choice.edges), time.wire, duration(time.seconds), agreed)
    terminal(highlight=False).print(table)
    fields = _changes(topology, tuning, steps)
    if not fields:
        typer.echo("What is in the file is as good as any other.")
        return
    typer.echo("Write into the topology file, then `flaremesh up` for new kits:\n")
    typer.echo(yaml.safe_dump(fields, sort_keys=False, default_flow_style=None))


def _changes(topology: "Topology", tuning: "Tuning", steps: int | None) -> dict[str, Any]:
    """What to write into the topology file."""
    fields: dict[str, Any] = {}
    run: dict[str, Any] = {}
    if best := tuning.proposal:
        if tuning.now is None or best.graph != tuning.now.graph:
            fields["graph"] = best.graph.model_dump(mode="json", exclude_defaults=True)
        if best.weights != topology.weights:
            fields["weights"] = best.weights
        if best.time.wire != topology.run.wire.encoding:
            run["wire"] = best.time.wire
    if steps is not None and not _is_about(steps, topology.run.local_steps or 1):
        run["local_steps"] = steps
    return fields | ({"run": run} if run else {})


def _is_about(steps: int, others: int) -> bool:
    """Whether the difference is within what such figures vary by."""
    return max(steps, others) <= 2 * min(steps, others)


def _name(choice: "Choice") -> str:
    fields = choice.graph.model_dump(exclude_defaults=True)
    if "kind" not in fields:
        return f"{len(fields['edges'])} listed edges"
    return f"{fields['kind']}{', directed' if fields.get('directed') else ''}"
