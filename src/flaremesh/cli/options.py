"""Arguments and options that several commands share."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from pydantic import ValidationError

from flaremesh import import_path
from flaremesh.cli.outputs import FileError, folder
from flaremesh.deploy.targets import LOCAL_WORKSPACES, TargetKind
from flaremesh.errors import first_mistake
from flaremesh.printable import printable
from flaremesh.provision.state import LAST_TOPOLOGY
from flaremesh.topology.schema import Run, Topology, WireEncoding

if TYPE_CHECKING:
    from flaremesh.provision.measured import Measurement

TopologyFile: TypeAlias = Annotated[Path, typer.Argument(metavar="TOPOLOGY", help="The topology file.")]
Output: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder of the mesh; default: build/<name of the topology>.")
]
Where: TypeAlias = Annotated[TargetKind, typer.Option("--target", help="Where the mesh runs.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wire: TypeAlias = Annotated[
    WireEncoding | None, typer.Option(help="Instead of run.wire: how vectors travel between sites.")
]
SiteWorkspace: TypeAlias = Annotated[
    Path | None,
    typer.Argument(
        metavar="[WORKSPACE]",
        envvar="FLAREMESH_WORKSPACE",
        help="The site's folder, with the kit in it; or a topology file, with --site, on the local target.",
    ),
]
RunId: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="The run, by its id in `flaremesh pending`.")
]
AnyRun: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="The run, by its id in `flaremesh runs`, or how that begins; default: the newest.",
    ),
]
Draw: TypeAlias = Annotated[bool, typer.Option("--report", help="Draw it too, as `flaremesh report` does.")]
Measured: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--measured",
        metavar="FILE",
        help="What `flaremesh doctor --measure` wrote, to tell how long a run takes; with --build-problem.",
    ),
]
SiteName: TypeAlias = Annotated[str | None, typer.Option("--site", help="The site, of a topology file.")]


def load(path: Path, *, executes: bool = False) -> Topology:
    """The topology of a file, checked.

    Args:
        path: the file.
        executes: whether the command is there to execute what lies beside the file. If not, no module is
            imported from the file's folder, nor from the current one.

    Raises:
        TopologyError: with everything that is wrong with the file.
    """
    if executes:
        import_path.admit()
    else:
        import_path.leave_out(path.parent)
    from flaremesh.topology import load as loading  # the graph library, which --help does not need

    return loading.load(path)


def name_code(topology: Topology, folder: Path) -> None:
    """Name on stderr, before it is executed, the code that lies in the user's folders.

    Args:
        topology: whose run is executed.
        folder: the topology file's.

    Raises:
        SourceError: what the problem's file imports from beside it cannot travel to the sites.
    """
    from flaremesh.checksum import sha256
    from flaremesh.problems.sources import executed

    for file in executed(topology, folder):
        typer.echo(f"Executes {printable(str(file))} (SHA-256 {sha256(file)})", err=True)


def overridden(topology: Topology, **fields: Any) -> Topology:
    """The topology with those of ``fields`` in its run that are not None.

    Raises:
        BadParameter: a run cannot have them.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        run = Run.model_validate(topology.run.model_dump() | given)
    except ValidationError as error:
        raise typer.BadParameter(first_mistake(error)) from None
    return topology.model_copy(update={"run": run})


def place_of(topology: Topology, output: Path | None) -> Path:
    """The folder with everything that is made from a topology, whatever is in it now.

    Raises:
        FileError: it cannot be a folder.
    """
    return folder(output or Path("build") / topology.name)


def mesh_folder(topology: Topology, output: Path | None) -> Path:
    """The folder with everything that is made from a topology.

    Raises:
        FileError: it holds another mesh, or cannot be a folder.
    """
    path = place_of(topology, output)
    try:
        held = json.loads((path / LAST_TOPOLOGY).read_bytes())["name"]
    except (OSError, ValueError, TypeError, LookupError):
        return path  # the command that reads that file reports what is wrong with it
    if held != topology.name:
        raise FileError(
            f"{path} holds the mesh {held}, and the topology file names it {topology.name}. "
            "Name another folder with --output, or undo that change."
        )
    return path


def site_workspace(place: Path | None, site: str | None, output: Path | None) -> Path:
    """The workspace of a site on this machine.

    Args:
        place: the workspace itself, or a topology file whose mesh is up on the local target.
        site: name of the site, with a topology file.
        output: folder of the mesh, with a topology file.

    Raises:
        TopologyError, FileError: the topology file, or the mesh's folder, cannot be used.
        NoWorkspace: there is none.
        BadParameter: no workspace is named, or no site of the topology file.
    """
    from flaremesh.p2p.gate.commands import workspace_at

    if place is None:
        raise typer.BadParameter("name the site's workspace, or a topology file and --site")
    if place.is_file():
        topology = load(place)
        names = [known.name for known in topology.sites]
        if site not in names:
            raise typer.BadParameter(f"with a topology file, --site must be one of {', '.join(names)}")
        place = mesh_folder(topology, output) / LOCAL_WORKSPACES / site
    return workspace_at(place)


def measurement_in(file: Path) -> "Measurement":
    """What `flaremesh doctor --measure` wrote into a file.

    Raises:
        RecordError: it is none.
        OSError: it cannot be read.
    """
    from flaremesh.provision import measured  # brings libraries that --help does not need

    return measured.read(file)


def duration(seconds: float) -> str:
    """A time for people, to three digits."""
    for unit, length in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms"


def print_json(document: Any) -> None:
    """Print a document whose numbers may be NaN or infinite, which JSON has not: they are null."""
    typer.echo(json.dumps(_finite(document), indent=2))


def _finite(document: Any) -> Any:
    match document:
        case dict():
            return {key: _finite(value) for key, value in document.items()}
        case list() | tuple():
            return [_finite(value) for value in document]
        case float() if not math.isfinite(document):
            return None
    return document
