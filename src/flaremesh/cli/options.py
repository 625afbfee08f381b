"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from flaremesh.deploy.targets import TargetKind
from flaremesh.topology.schema import Topology

TopologyFile: TypeAlias = Annotated[Path, typer.Argument(metavar="TOPOLOGY", help="The topology file.")]
Output: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder of the mesh; default: build/<name of the topology>.")
]
Where: TypeAlias = Annotated[TargetKind, typer.Option("--target", help="Where the mesh runs.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def mesh_folder(topology: Topology, output: Path | None) -> Path:
    """The folder with everything that is made from a topology."""
    return output or Path("build") / topology.name
