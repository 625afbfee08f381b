"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from pydantic import ValidationError

from flaremesh.cli.outputs import folder
from flaremesh.deploy.targets import TargetKind
from flaremesh.errors import first_mistake
from flaremesh.topology.schema import Run, Topology, WireEncoding

TopologyFile: TypeAlias = Annotated[Path, typer.Argument(metavar="TOPOLOGY", help="The topology file.")]
Output: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder of the mesh; default: build/<name of the topology>.")
]
Where: TypeAlias = Annotated[TargetKind, typer.Option("--target", help="Where the mesh runs.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wire: TypeAlias = Annotated[
    WireEncoding | None, typer.Option(help="Instead of run.wire: how vectors travel between sites.")
]


def overridden(topology: Topology, **fields: Any) -> Topology:
    """The topology with other fields of its run, as far as they are not None.

    Raises:
        BadParameter: a run cannot have them.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        run = Run.model_validate(topology.run.model_dump() | given)
    except ValidationError as error:
        raise typer.BadParameter(first_mistake(error)) from None
    return topology.model_copy(update={"run": run})


def mesh_folder(topology: Topology, output: Path | None) -> Path:
    """The folder with everything that is made from a topology.

    Raises:
        FileError: it cannot be one.
    """
    return folder(output or Path("build") / topology.name)
