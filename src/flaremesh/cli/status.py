"""``flaremesh status``."""

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from flaremesh.cli.options import AsJson, Output, TopologyFile, Where, load, mesh_folder, print_json
from flaremesh.cli.outputs import terminal
from flaremesh.deploy.targets import TargetKind, target_of

if TYPE_CHECKING:
    from flaremesh.deploy.watch.status import MeshStatus  # brings NVFlare, which --help does not need


def status(
    topology: TopologyFile, where: Where = TargetKind.LOCAL, output: Output = None, as_json: AsJson = False
) -> None:
    """Show the processes, the registered sites and the runs of a mesh."""
    from flaremesh.deploy.watch.status import mesh_status

    loaded = load(topology)
    mesh = mesh_folder(loaded, output)
    show(mesh_status(loaded, target_of(where, loaded, mesh), mesh), as_json=as_json)


def show(status: "MeshStatus", *, as_json: bool) -> None:
    """Print a status as tables or as JSON."""
    if as_json:
        print_json(asdict(status) | {"ready": status.ready})
        return
    from rich.table import Column, Table

    from flaremesh.cli.progress import progress_table

    console = terminal()
    # folded, because half an address is of no use
    where, metrics = (Column(name, overflow="fold") for name in ("where", "metrics"))
    table = Table("participant", "state", "registered", where, metrics)
    for participant in status.participants:
        absent = "elsewhere" if participant.elsewhere else "down"
        state = "ready" if participant.ready else "starting" if participant.running else absent
        registered = "yes" if participant.name in (status.registered or ()) else ""
        table.add_row(participant.name, state, registered, participant.place, participant.metrics or "")
    console.print(table)
    for run in status.runs or ():
        console.print(progress_table(run.sites, f"run {run.run_id} ({run.name}): {run.state}"))
        for site, since in sorted(run.missing.items()):
            when = f"{datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}"
            console.print(f"{site} has been missing from run {run.run_id} since {when}", soft_wrap=True)
