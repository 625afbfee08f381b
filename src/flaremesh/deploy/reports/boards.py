"""The dashboards of the monitoring chart, as far as their JSON is read here."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from flaremesh.provision.releases import DASHBOARDS

_ORDER = ("overview", "run", "site", "edges")


class _Read(BaseModel):
    """The parts of a dashboard's JSON that are read here."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class Target(_Read):
    """One query of a panel."""

    expr: str
    legend_format: str = ""
    instant: bool = False


class Place(_Read):
    """Where a panel is, on a grid 24 wide."""

    x: int = 0
    y: int = 0
    w: int
    h: int


class Transformation(_Read):
    """What is done to a table before it is shown."""

    id: Literal["organize", "groupingToMatrix"]
    options: dict[str, Any]


class Panel(_Read):
    """A panel, or the heading of a row."""

    type: Literal["row", "timeseries", "stat", "table"]
    title: str
    description: str = ""
    grid_pos: Place
    targets: tuple[Target, ...] = ()
    field_config: dict[str, Any] = {}
    options: dict[str, Any] = {}
    transformations: tuple[Transformation, ...] = ()

    @property
    def defaults(self) -> dict[str, Any]:
        """How values are shown."""
        return dict(self.field_config.get("defaults", {}))


class Variable(_Read):
    """What a reader chooses."""

    name: str
    type: Literal["datasource", "query"]
    label: str
    query: Any
    regex: str = ""
    all_value: str | None = None


class Templating(_Read):
    """The variables."""

    variables: tuple[Variable, ...] = Field(alias="list")


class Annotation(_Read):
    """A query for what happened when."""

    expr: str


class Annotations(_Read):
    """The annotations."""

    queries: tuple[Annotation, ...] = Field(alias="list")


class Board(_Read):
    """A dashboard."""

    title: str
    description: str
    panels: tuple[Panel, ...]
    templating: Templating
    annotations: Annotations


def boards() -> dict[str, Board]:
    """The dashboards of the monitoring chart by their files' names."""
    return {name: Board.model_validate_json((DASHBOARDS / f"{name}.json").read_bytes()) for name in _ORDER}
