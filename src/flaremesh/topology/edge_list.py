"""Edge-list files: one ``from to [weight]`` a line, ``#`` starts a comment, ``phase`` the edges of a phase.

As spreadsheets write it, fields may be separated by commas or semicolons, and the first line may name them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flaremesh.topology.mistakes import Mistake, shown
from flaremesh.topology.text import Unreadable, inside, read

MOST_LINES: Final = 300_000


@dataclass
class EdgeList:
    """What the file that ``graph.file`` names holds; empty if there is no such field.

    Attributes:
        name: as the topology file gives it.
        edges: data of an ExplicitGraph's edges.
        lines: the line of each edge.
        mistakes: lines that are no edges, or that the file cannot be read.
    """

    name: str = ""
    edges: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)

    def relocate(self, mistake: Mistake) -> Mistake:
        """A mistake of an edge, pointing to its line in this file; others unchanged."""
        match mistake.location:
            case ("graph", "edges", int(index), *_) if self.lines:
                return self._mistake(self.lines[index], mistake.problem, mistake.remedy)
            case ("graph", "edges") if self.name:
                return Mistake(("graph", "file"), f"{self.name}: {mistake.problem}", mistake.remedy)
        return mistake

    def read(self, folder: Path) -> None:
        """Fill in what the file in the topology file's folder holds."""
        try:
            lines = read(inside(folder, self.name), self.name).split("\n")
        except Unreadable as error:
            line = f" (line {error.line})" if error.line > 1 else ""
            self.mistakes.append(Mistake(("graph", "file"), f"{error.problem}{line}", error.remedy))
            return
        if len(lines) > MOST_LINES:
            problem = f"{self.name} has more than {MOST_LINES:,} lines"
            self.mistakes.append(Mistake(("graph", "file"), problem, "name a kind of graph instead"))
            return
        phase, heading = 1, 0
        for number, line in enumerate([*lines, "phase"], start=1):
            match _fields(line.partition("#")[0]):
                case []:
                    continue
                case ["from", "to"] | ["from", "to", "weight"] if not self.lines:
                    continue
                case ["phase"]:
                    if self.lines and self.lines[-1] > heading:
                        phase += 1
                    elif heading:
                        problem = "no edges follow in this phase"
                        self.mistakes.append(self._mistake(heading, problem, "add some, or remove the line"))
                    heading = number
                    continue
                case [source, target]:
                    self.edges.append({"from": source, "to": target, "phase": phase})
                case [source, target, weight]:
                    edge = {"from": source, "to": target, "weight": _number(weight), "phase": phase}
                    self.edges.append(edge)
                case _:
                    self.mistakes.append(
                        self._mistake(number, f"{shown(line)} is no edge", "write: from to [weight]")
                    )
                    continue
            self.lines.append(number)

    def _mistake(self, line: int, problem: str, remedy: str) -> Mistake:
        return Mistake(("graph", "file"), f"{self.name}, line {line}: {problem}", remedy)


def inlined(data: Mapping[str, Any], folder: Path) -> tuple[Mapping[str, Any], EdgeList]:
    """A topology file's data with the edges themselves in the place of ``graph.file``."""
    match data:
        case {"graph": {"file": str(name), **others}} if "edges" not in others:
            found = EdgeList(name)
            found.read(folder)
            return {**data, "graph": others | {"edges": found.edges}}, found
    return data, EdgeList()


def _fields(line: str) -> list[str]:
    separator = None  # white space
    if ";" in line:
        separator = ";"
    elif any("," in field for field in line.split()[:2]):  # a comma in the weight alone is a decimal one
        separator = ","
    fields = [field.strip().strip('"') for field in line.split(separator)]
    while fields and not fields[-1]:
        fields.pop()  # a row may end with empty cells
    return fields


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # validation reports it
