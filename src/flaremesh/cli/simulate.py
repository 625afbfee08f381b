"""``flaremesh simulate``."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaremesh.cli.options import Wire, load, name_code, overridden
from flaremesh.cli.outputs import writable_file
from flaremesh.topology.mistakes import instead

if TYPE_CHECKING:
    from flaremesh.topology.mesh import Mesh
    from flaremesh.topology.schema import Run, Topology


def simulate(
    topology: Annotated[Path, typer.Argument(help="Topology file.")],
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    wire: Wire = None,
    pace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE=TIMES",
            help="An iteration takes this site so many times as long, in a run in which none waits; "
            "may be repeated.",
        ),
    ] = None,
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
    paces = _paces(pace or [], loaded)
    torch.set_num_threads(1)  # sites take turns with small steps: threads would only wait for each other
    if check_resume:
        if output or as_json:
            raise typer.BadParameter("--check-resume writes no history: leave --output and --json out")
        if run.asynchronous:
            raise typer.BadParameter("a run in which no site waits is not resumed: leave --check-resume out")
        _check_resume(loaded.name, run, mesh)
        return
    if output:
        writable_file(output)
    with simulation_of(run, mesh, paces=paces) as simulation:
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
    typer.echo(f"consensus distance {first.consensus_distance:.3g} -> {last.consensus_distance:.3g}")
    for name, (least, greatest) in simulation.metric_ranges().items():
        typer.echo(f"{name} from {least:.4g} to {greatest:.4g}")


def _paces(texts: list[str], topology: "Topology") -> dict[str, float]:
    if texts and not topology.run.asynchronous:
        raise typer.BadParameter("the sites of this run wait for each other", param_hint="--pace")
    paces = {}
    for text in texts:
        site, _, times = text.partition("=")
        try:
            paces[site] = float(times)
        except ValueError:
            paces[site] = 0.0
        if not 0 < paces[site] < math.inf:
            raise typer.BadParameter(f"{text} is not SITE=TIMES, such as bonn=10", param_hint="--pace")
        if site not in (known := [each.name for each in topology.sites]):
            raise typer.BadParameter(f"there is no site {site}; {instead(site, known)}", param_hint="--pace")
    return paces


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
