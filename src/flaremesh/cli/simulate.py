"""``flaremesh simulate``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaremesh.cli.options import Wire, load, name_code, overridden
from flaremesh.cli.outputs import writable_file

if TYPE_CHECKING:
    from flaremesh.topology.mesh import Mesh
    from flaremesh.topology.schema import Run


def simulate(
    topology: Annotated[Path, typer.Argument(help="Topology file.")],
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    wire: Wire = None,
    output: Annotated[Path | None, typer.Option(help="Write the history to this file, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the history as JSON.")] = False,
    check_resume: Annotated[
        bool,
        typer.Option("--check-resume", help="Say whether a run that is broken off goes on bit for bit."),
    ] = False,
) -> None:
    """Run all sites of a topology in this process, with the code of a real run."""
    import torch

    from flaremesh.provision.plan import check
    from flaremesh.runtime.simulate import simulation_of

    loaded = overridden(load(topology, executes=True), iterations=iterations, wire=wire)
    name_code(loaded, topology.parent)
    mesh = check(loaded)
    run = loaded.run
    torch.set_num_threads(1)  # sites take turns with small steps: threads would only wait for each other
    if check_resume:
        if output or as_json:
            raise typer.BadParameter("--check-resume writes no history: leave --output and --json out")
        _check_resume(loaded.name, run, mesh)
        return
    if output:
        writable_file(output)
    with simulation_of(run, mesh) as simulation:
        try:
            simulation.run()
        except KeyboardInterrupt as interrupt:
            done = f"{simulation.snapshots[-1].iteration} of {run.iterations} iterations"
            interrupt.args = (f"Interrupted after {done}; nothing is written.",)
            raise

    document = {"name": loaded.name, "algorithm": run.algorithm, **simulation.document()}
    if output:
        output.write_text(json.dumps(document))
    if as_json:
        typer.echo(json.dumps(document))
        return
    first, last = simulation.snapshots[0], simulation.snapshots[-1]
    typer.echo(
        f"{loaded.name}: {run.algorithm}, {len(simulation.sites)} sites, {last.iteration} iterations "
        f"in {simulation.seconds:.1f} s"
    )
    if simulation.ended:
        typer.echo(simulation.ended)
    typer.echo(f"consensus distance {first.consensus_distance:.3g} -> {last.consensus_distance:.3g}")
    for name, (least, greatest) in simulation.metric_ranges().items():
        typer.echo(f"{name} from {least:.4g} to {greatest:.4g}")


def _check_resume(name: str, run: "Run", mesh: "Mesh") -> None:
    from flaremesh.runtime.resumption import resumption_of

    found = resumption_of(run, mesh)
    difference = found.difference
    if difference is None:
        typer.echo(
            f"{name}: a run of it resumes exactly. Broken off after {found.broken_after} of {run.iterations} "
            f"iterations, all {len(mesh.schedules)} sites end with the same histories and models."
        )
        return
    typer.echo(
        f"{name}: {difference.site} differs first, after iteration {difference.iteration}: {difference.what}."
    )
    typer.echo(
        f"Broken off after {found.broken_after} of {run.iterations} iterations, a run of it does not resume "
        "exactly: the problem has a position that it does not tell; see snapshot and restore in the README."
        if found.repeatable
        else "That is before the break: no two runs of it are the same, because it draws from what no seed "
        "controls."
    )
    raise typer.Exit(1)
