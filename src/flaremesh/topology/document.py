"""A YAML document as plain data, and the line of every value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from flaremesh.topology.mistakes import LineMistake, Location, Mistake, shown
from flaremesh.topology.scalars import TAG, TYPES, Ambiguous, meant
from flaremesh.topology.text import Unreadable

_Parser = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # libyaml's parser is ten times faster; only its events are used

_DEEPEST = 100  # levels of values inside values
_MOST = 1_000_000  # values in all; those of an alias count wherever it stands

_MERGE = "<<"


@dataclass(slots=True)
class _Node:
    """A value of the document.

    Attributes:
        line: where it stands, from 1.
        value: its plain data.
        text: the scalar as it is written, if it has no quotes.
        parts: what a mapping or a list holds; for a mapping with the line of each key.
        mistakes: those of the value itself, at locations relative to it.
        flawed: whether it or something inside has mistakes.
        size: number of values in it.
        depth: number of values inside each other.
    """

    line: int
    value: Any
    text: str | None = None
    parts: "Mapping[Any, tuple[int, _Node]] | Sequence[_Node]" = ()
    mistakes: Sequence[Mistake] = ()
    flawed: bool = False
    size: int = 1
    depth: int = 1


class Document:
    """What a file says.

    Args:
        text: YAML.

    Attributes:
        data: None if the text holds nothing.

    Raises:
        Unreadable: it is no YAML, or none that can be taken as data.
    """

    def __init__(self, text: str):
        self._root = _composed(text) or _Node(1, None)
        self.data: Any = self._root.value

    def fields(self, start: str) -> dict[str, Any]:
        """What the file says, by its outermost fields.

        Args:
            start: how to begin such a file, for the message.

        Raises:
            Unreadable: it has no fields.
        """
        if self.data is None:
            raise Unreadable("the file is empty", start)
        if not isinstance(self.data, dict):
            raise Unreadable("the file holds no fields", start)
        return self.data

    def mistakes(self) -> Iterator[Mistake]:
        """Fields that are given twice, and values that can be read in two ways."""
        return _mistakes(self._root, (), set())

    def written(self, location: Location) -> str | None:
        """The text of a value without quotes; None of anything else."""
        nodes = list(self._path(location))
        return nodes[-1][1].text if len(nodes) == len(location) + 1 else None

    def located(self, mistake: Mistake) -> LineMistake:
        """A mistake at the line of its value, or of the innermost thing around it that the file holds."""
        field = ""
        path = [*self._path(mistake.location)]
        for index, step in enumerate(mistake.location):
            inside = path[index][1].parts if index < len(path) else ()
            listed = isinstance(step, int) and not isinstance(inside, Mapping)
            field += f"[{step}]" if listed else f"{'.' if field else ''}{step}"
        return LineMistake(path[-1][0], field, mistake.problem, mistake.remedy)

    def _path(self, location: Location) -> Iterator[tuple[int, _Node]]:
        """Line and value of every step of a location, as far as the file holds them."""
        node = self._root
        yield node.line, node
        for step in location:
            if isinstance(node.parts, Mapping) and step in node.parts:
                line, node = node.parts[step]
            elif isinstance(node.parts, Sequence) and isinstance(step, int) and step < len(node.parts):
                node = node.parts[step]
                line = node.line
            else:
                return
            yield line, node


def _mistakes(node: _Node, at: Location, seen: set[int]) -> Iterator[Mistake]:
    if not node.flawed or id(node) in seen:
        return  # an anchor's mistakes are reported once
    seen.add(id(node))
    for mistake in node.mistakes:
        yield mistake._replace(location=(*at, *mistake.location))
    if isinstance(node.parts, Mapping):
        for key, (_, part) in node.parts.items():
            yield from _mistakes(part, (*at, key), seen)
    else:
        for index, part in enumerate(node.parts):
            yield from _mistakes(part, (*at, index), seen)


@dataclass(slots=True)
class _Open:
    """A list or a mapping whose end has not come yet."""

    start: yaml.SequenceStartEvent | yaml.MappingStartEvent
    nodes: list[_Node]


def _composed(text: str) -> _Node | None:
    """The document's root, found without recursion, since a file may nest any depth."""
    root: _Node | None = None
    anchors: dict[str, _Node | None] = {}  # None until the anchor's value is complete
    around: list[_Open] = []
    count = documents = 0
    for event in _events(text):
        line = _line(event)
        match event:
            case yaml.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    raise Unreadable(
                        "a second document starts here", "remove the line ---, or use two files", line
                    )
                continue
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                if len(around) >= _DEEPEST:
                    raise _too_deep(line)
                around.append(_Open(event, []))
                if event.anchor:
                    anchors[event.anchor] = None
                continue
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                closed = around.pop()
                node, anchor = _collection(closed), closed.start.anchor
            case yaml.ScalarEvent():
                node, anchor = _scalar(event, line), event.anchor
            case yaml.AliasEvent():
                node, anchor = _aliased(event.anchor, anchors, line), None
            case _:
                continue
        count += node.size if isinstance(event, yaml.AliasEvent) else 1
        if count > _MOST or node.size > _MOST:
            raise Unreadable(
                f"the file holds more than {_MOST:,} values, those of aliases included",
                "use fewer aliases, or name an edge list instead of edges: graph: {file: edges.txt}",
                line,
            )
        if node.depth > _DEEPEST:
            raise _too_deep(line)
        if anchor:
            anchors[anchor] = node
        if around:
            around[-1].nodes.append(node)
        else:
            root = node
    return root


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_Parser)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        lines = text.split("\n")
        line = min(mark.line if mark else 0, len(lines) - 1)  # libyaml may name the line after the last
        remedy = "check indentation, colons, brackets and quotes here"
        if "\t" in lines[line]:
            remedy = "indent with spaces, not with a tab"
        raise Unreadable(f"this is not YAML: {error.problem}", remedy, line + 1) from None
    except yaml.YAMLError as error:
        raise Unreadable(f"this is not YAML: {error}", "remove the character") from None


def _line(event: yaml.Event) -> int:
    assert event.start_mark
    return event.start_mark.line + 1


def _too_deep(line: int) -> Unreadable:
    return Unreadable(
        f"more than {_DEEPEST} lists and mappings stand inside each other", "check the brackets", line
    )


def _aliased(name: str | None, anchors: Mapping[str, _Node | None], line: int) -> _Node:
    if name is None or name not in anchors:
        raise Unreadable(f"there is no anchor &{name} above", f"write &{name} before the value meant", line)
    node = anchors[name]
    if node is None:
        raise Unreadable(f"the alias *{name} stands for what it stands in", "write the value out", line)
    return node


_NO_TAG = "write the value without a tag"


def _unknown(tag: str) -> str:
    return f"the tag {tag.replace(TAG, '!!')} is unknown"


def _collection(closed: _Open) -> _Node:
    line, nodes, tag = _line(closed.start), closed.nodes, closed.start.tag
    listed = isinstance(closed.start, yaml.SequenceStartEvent)
    if tag not in (None, "!", f"{TAG}seq" if listed else f"{TAG}map"):
        raise Unreadable(_unknown(tag), _NO_TAG, line)
    node = _Node(line, [node.value for node in nodes], parts=nodes) if listed else _mapping(line, nodes)
    node.flawed = bool(node.mistakes) or any(part.flawed for part in nodes)
    node.size = 1 + sum(part.size for part in nodes)
    node.depth = 1 + max((part.depth for part in nodes), default=0)
    return node


def _mapping(line: int, nodes: Sequence[_Node]) -> _Node:
    own: dict[Any, tuple[int, _Node]] = {}
    merged: dict[Any, tuple[int, _Node]] = {}
    mistakes: list[Mistake] = []
    for key, value in zip(nodes[::2], nodes[1::2], strict=True):
        if key.text == _MERGE:
            if (parts := _to_merge(value)) is None:
                own[_MERGE] = key.line, value
                mistakes.append(
                    Mistake((_MERGE,), "it takes a mapping or a list of mappings", "write <<: *anchor")
                )
            else:
                merged |= parts
                mistakes += value.mistakes
        elif isinstance(key.value, list | dict):
            mistakes.append(
                Mistake(
                    (),
                    f"the field's name in line {key.line} is a list or a mapping",
                    "put what starts with { or [ in quotes",
                )
            )
        else:
            mistakes += [Mistake((key.value,), *mistake[1:]) for mistake in key.mistakes]
            if key.value in own:
                mistakes.append(
                    Mistake(
                        (key.value,),
                        f"the field is already in line {own[key.value][0]}",
                        "keep one of them",
                    )
                )
            own[key.value] = key.line, value
    parts = merged | own
    return _Node(line, {key: part.value for key, (_, part) in parts.items()}, parts=parts, mistakes=mistakes)


def _to_merge(node: _Node) -> dict[Any, tuple[int, _Node]] | None:
    """What a merge key brings in; of several mappings the first has the last word."""
    if isinstance(node.value, dict) and isinstance(node.parts, Mapping):
        return dict(node.parts)
    if not isinstance(node.value, list) or isinstance(node.parts, Mapping):
        return None
    merged: dict[Any, tuple[int, _Node]] = {}
    for part in reversed(node.parts):
        if not isinstance(part.parts, Mapping):
            return None
        merged |= part.parts
    return merged


def _scalar(event: yaml.ScalarEvent, line: int) -> _Node:
    text, tag = event.value, event.tag
    plain = event.implicit[0] and tag is None
    node = _Node(line, text, text if plain else None)
    tag = tag or "!"  # the tag of a text in quotes
    name = tag.removeprefix(TAG)
    if not plain and name in ("!", "str"):
        return node
    try:
        value: Any = meant(text)
    except Ambiguous as doubt:
        node.mistakes, node.flawed = [Mistake((), *doubt.args)], True
        return node
    if plain or type(value) in TYPES.get(name, ()):
        node.value = float(value) if name == "float" else value
        return node
    problem = f"{shown(text)} is no {name}" if name in TYPES else _unknown(tag)
    raise Unreadable(problem, _NO_TAG, line)
