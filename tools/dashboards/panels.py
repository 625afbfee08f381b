"""What the panels of all dashboards have in common."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import NamedTuple, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    StackingMode,
    TableCellBackgroundDisplayMode,
    TableColoredBackgroundCellOptions,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
GOOD, WARN, BAD, PLAIN = "green", "orange", "red", "text"

Panel = timeseries.Panel | stat.Panel | table.Panel
_AnyPanel = TypeVar("_AnyPanel", timeseries.Panel, stat.Panel, table.Panel)


class Query(NamedTuple):
    """An expression, and how its series are called: ``{{label}}`` stands for a label's value."""

    expression: str
    legend: str


class Step(NamedTuple):
    """The colour of numbers from ``value`` on."""

    value: float
    colour: str


class Meaning(NamedTuple):
    """The text and colour in which a number is shown."""

    text: str
    colour: str


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    logarithmic: bool = False,
    stacked: bool = False,
) -> timeseries.Panel:
    """Curves over time."""
    panel = _described(timeseries.Panel(), title, description, unit, width, 8)
    for ref, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(_target(ref, query).range())
    panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    ).tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    if logarithmic:
        panel.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(60)
    return panel


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *steps: Step,
    meanings: Mapping[int, Meaning] | None = None,
    width: int = 4,
    name_only: bool = False,
) -> stat.Panel:
    """The latest value of each series in large type; with ``name_only``, its name instead."""
    panel = _described(stat.Panel(), title, description, unit, width, 4)
    panel.with_target(_target("A", query).instant())
    panel.graph_mode(BigValueGraphMode.NONE).color_mode(BigValueColorMode.VALUE)
    if name_only:
        panel.text_mode(BigValueTextMode.NAME)
    _meaning(panel, meanings)
    thresholds = [Threshold(None, PLAIN), *(Threshold(*step) for step in steps)]
    return panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))


def rows(
    title: str,
    description: str,
    unit: str,
    expression: str,
    columns: Sequence[str],
    value: str | None = None,
    width: int = 12,
) -> table.Panel:
    """A table with a row per series: the labels ``columns``, then the value under the name ``value``."""
    panel = _described(table.Panel(), title, description, unit, width, 6).no_value("none")
    panel.with_target(_target("A", Query(expression, "")).instant().format(PromQueryFormat.TABLE))
    return panel.with_transformation(
        DataTransformerConfig(
            "organize",
            options={
                "excludeByName": {"Time": True} | ({} if value else {"Value": True}),
                "indexByName": {name: place for place, name in enumerate([*columns, "Value"])},
                "renameByName": {"Value": value} if value else {},
            },
        )
    )


def matrix(
    title: str,
    description: str,
    unit: str,
    expression: str,
    meanings: Mapping[int, Meaning] | None = None,
) -> table.Panel:
    """A table with a row per ``site`` and a column per ``peer``: the greater a number, the darker."""
    panel = _described(table.Panel(), title, description, unit, 12, 9)
    panel.with_target(_target("A", Query(expression, "")).instant().format(PromQueryFormat.TABLE))
    panel.cell_options(TableColoredBackgroundCellOptions(TableCellBackgroundDisplayMode.BASIC))
    _meaning(panel, meanings)
    if not meanings:
        panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.CONTINUOUS_BLUES))
    return panel.with_transformation(
        DataTransformerConfig(
            "groupingToMatrix", options={"rowField": "site", "columnField": "peer", "valueField": "Value"}
        )
    )


def _described(
    panel: _AnyPanel, title: str, description: str, unit: str, width: int, height: int
) -> _AnyPanel:
    return (
        panel.title(title)
        .description(description)
        .unit(unit)
        .span(width)
        .height(height)
        .datasource(DATASOURCE)
    )


def _target(ref: str, query: Query) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .ref_id(ref)
        .expr(query.expression)
        .legend_format(query.legend)
        # without one of its own, this release of the SDK leaves the query to Grafana's default
        .datasource(DATASOURCE)
    )


def _meaning(panel: stat.Panel | table.Panel, meanings: Mapping[int, Meaning] | None) -> None:
    if meanings:
        options = {
            str(value): ValueMappingResult(text=meaning.text, color=meaning.colour)
            for value, meaning in meanings.items()
        }
        panel.mappings([ValueMap(options)])
