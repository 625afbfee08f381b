"""Read a topology file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flaremesh.topology.checks import mistakes
from flaremesh.topology.document import Document
from flaremesh.topology.edge_list import inlined
from flaremesh.topology.mistakes import LineMistake, Mistake, TopologyError
from flaremesh.topology.schema import ScriptReference, Topology
from flaremesh.topology.text import Unreadable, inside, read
from flaremesh.topology.validation import validate

_START = "start with apiVersion: flaremesh/v1"


def load(path: str | Path) -> Topology:
    """The topology of a file, checked.

    Paths in the file are relative to it, and lead to files in its folder alone. What is returned does not
    depend on the file any more: an edge list has been read, and the path of the problem's file is absolute.

    Raises:
        TopologyError: the file has mistakes; it names all of them.
    """
    path = Path(path)
    document, written = _read(path)
    data, edge_list = inlined(written, path.parent)
    unreadable = list(document.mistakes())
    topology, invalid = validate(Topology, data, document.written)
    others = [*invalid, *edge_list.mistakes, *_unfit_file(data, path.parent), *mistakes(data)]
    # other mistakes at a value that cannot be read may only follow from that
    places = {mistake.location for mistake in unreadable}
    if edge_list.mistakes:
        places.add(("graph", "edges"))
    found = [*unreadable, *(mistake for mistake in others if mistake.location not in places)]
    if topology is None or found:
        located = dict.fromkeys(document.located(edge_list.relocate(mistake)) for mistake in found)
        raise TopologyError(path, sorted(located, key=lambda mistake: mistake.line))
    return _with_absolute_file(topology, path.parent)


def _read(path: Path) -> tuple[Document, dict[str, Any]]:
    try:
        document = Document(read(path, "the file"))
        return document, document.fields(_START)
    except Unreadable as error:
        raise TopologyError(path, [LineMistake(error.line, "", error.problem, error.remedy)]) from None


def _unfit_file(data: Mapping[str, Any], folder: Path) -> Iterator[Mistake]:
    match data:
        case {"run": {"problem": {"file": str(file)}}} | {"run": {"problem": {"script": str(file)}}}:
            location = ("run", "problem", "script" if "script" in data["run"]["problem"] else "file")
            try:
                if not _is_file(inside(folder, file)):
                    yield Mistake(location, f"{folder / file} does not exist", "check the path")
            except Unreadable as error:
                yield Mistake(location, error.problem, error.remedy)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no file can have such a name, or this user may not look
        return False


def _with_absolute_file(topology: Topology, folder: Path) -> Topology:
    run = topology.run
    if run.problem.file is None:
        return topology
    field = "script" if isinstance(run.problem, ScriptReference) else "file"
    problem = run.problem.model_copy(update={field: inside(folder, str(run.problem.file))})
    return topology.model_copy(update={"run": run.model_copy(update={"problem": problem})})
