"""``flaremesh runs``."""

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from flaremesh.cli.options import AsJson, Output, TopologyFile, Where, load, mesh_folder, print_json
from flaremesh.cli.outputs import terminal
from flaremesh.deploy.targets import TargetKind, target_of

if TYPE_CHECKING:
    from flaremesh.deploy.runs.known import RunLine  # brings NVFlare, which --help does not need


def runs(
    topology: TopologyFile, where: Where = TargetKind.LOCAL, output: Output = None, as_json: AsJson = False
) -> None:
    """Show the runs that the server of a mesh knows, with their state, the newest last."""
    from flaremesh.deploy.runs.known import run_lines

    loaded = load(topology)
    mesh = mesh_folder(loaded, output)
    lines = run_lines(loaded, target_of(where, loaded, mesh), mesh)
    if as_json:
        print_json([asdict(line) for line in lines])
    else:
        show(lines)


def show(lines: "list[RunLine]") -> None:
    """Print the runs as a table."""
    from rich.table import Column, Table

    # an id is typed again, so it is never cut
    run = Column("run", no_wrap=True)
    table = Table(
        run, "name", "state", "iteration", "attempts", "submitted", "by", Column("", overflow="fold")
    )
    for line in lines:
        done = "" if line.iteration is None else str(line.iteration)
        table.add_row(
            line.run_id,
            line.name,
            line.state,
            f"{done} of {line.iterations}" if done and line.iterations else done,
            str(len(line.attempts)),
            f"{datetime.fromtimestamp(line.submitted):%Y-%m-%d %H:%M}" if line.submitted else "",
            line.submitter,
            line.why,
        )
    terminal().print(table)
