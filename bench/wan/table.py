"""Results as rows and as Markdown."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from bench import report
from bench.samples import FLAREMESH, K_GT, LEARNING, MET, STOCK, TRAINING, Key, Row, Samples
from bench.wan.cases import IDEAL, SYSTEMS, Way
from bench.wan.result import Result
from bench.wan.targets import MILLISECONDS, SHARE, TIMES, targets_of

_PARTS = {"wait_seconds": "waiting", "send_seconds": "encoding", "mix_seconds": "decoding and mixing"}


def rows_of(results: Sequence[Result], ways: Mapping[str, Way]) -> list[Row]:
    """Times, shares of the line, and how much faster than exact each wire is, in this order."""
    samples = Samples(SYSTEMS, partial(targets_of, ways))
    exact = {_place(each): each.seconds for each in results if each.system == FLAREMESH}
    for unit in (MILLISECONDS, SHARE, TIMES):
        for each in results:
            key = Key(each.way, each.sites, each.floats, unit)
            figures = _figures(each, unit, ways[each.way], exact.get(_place(each)))
            for name, figure in figures.items():
                samples.add(key, name, each.turn, [] if figure is None else [figure])
    return list(samples.rows())


def _place(each: Result) -> tuple[str, int, int, int]:
    return each.way, each.sites, each.floats, each.turn


def _figures(each: Result, unit: str, way: Way, exact: float | None) -> dict[str, float | None]:
    """What a result says in this unit, by system."""
    ideal = way.seconds(each.bytes)
    share = 800 * each.bytes / way.rate
    figures: dict[str, float | None] = {}
    is_number = each.floats == 1
    if unit == MILLISECONDS:
        figures[each.system] = None if each.seconds is None else 1e3 * each.seconds
        return figures | ({IDEAL: 1e3 * ideal} if each.system == FLAREMESH else {})
    if is_number or each.seconds is None:
        return {}
    if unit == SHARE:
        figures[each.system] = share / each.seconds
        return figures | ({IDEAL: share / ideal} if each.system == FLAREMESH else {})
    is_wire = each.system.startswith(f"{FLAREMESH},") and each.system != MET
    if is_wire and exact is not None:
        figures[each.system] = exact / each.seconds
    return figures


def markdown_of(
    rows: Sequence[Row],
    results: Sequence[Result],
    trials: Sequence[Mapping[str, Any]],
    lines: Sequence[Any],
    trainings: Sequence[Mapping[str, Any]],
) -> str:
    """What was found of the networks, the rows, where iterations go, and how long training takes."""
    parts = [_networks(trials, lines), report.markdown_of(rows), _parts(results)]
    return "\n".join([*parts, _trainings(trainings)] if trainings else parts)


def _networks(trials: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> str:
    table = [
        (
            "network",
            "round trip, ms",
            "one TCP connection, Mbit/s",
            "late, % of packets",
            "cores of the router",
        )
    ]
    for each in trials:
        own = [group for group in lines if group["way"] == each["way"]]
        routers = [group["router"] for group in own]
        packets = sum(router["packets"] for router in routers)
        late = 100 * sum(router["late"] for router in routers) / packets if packets else 0.0
        cores = max((router["cpu_seconds"] / router["seconds"] for router in routers), default=0.0)
        found = each["found"]
        table.append(
            (
                each["way"],
                f"{1e3 * found['round_trip']:.2f}",
                f"{found['rate'] / 1e6:.1f}",
                f"{late:.3f}",
                f"{cores:.2f}",
            )
        )
    return report.markdown_table(table)


def _parts(results: Sequence[Result]) -> str:
    """Medians over the turns, in milliseconds, of vectors."""
    table = [
        (
            "network",
            "sites",
            "floats",
            "wire",
            "iteration, ms",
            *_PARTS.values(),
            "line idle for these, %",
            "predicted, ms",
            "off, %",
        )
    ]
    groups: dict[tuple[str, int, int, str], list[Result]] = {}
    for each in results:
        if each.parts and each.floats > 1:
            groups.setdefault((each.way, each.sites, each.floats, each.system), []).append(each)
    for (way, sites, floats, name), found in sorted(groups.items(), key=lambda group: group[0][:3]):
        seconds = median(each.seconds or 0.0 for each in found)
        parts = [median(each.parts[part] for each in found) for part in _PARTS]
        idle = 100 * sum(parts[1:]) / seconds
        cells = [f"{1e3 * figure:.4g}" for figure in (seconds, *parts)]
        predicted = [each.predicted for each in found if each.predicted is not None]
        foretold = (f"{1e3 * median(predicted):.4g}", f"{_off(found):+.0f}") if predicted else ("", "")
        table.append((way, str(sites), f"{floats:g}", name, *cells, f"{idle:.1f}", *foretold))
    return report.markdown_table(table)


def _trainings(trainings: Sequence[Mapping[str, Any]]) -> str:
    """Medians over the turns, in seconds."""
    systems = (FLAREMESH, K_GT, STOCK)
    table = [("", "sites", "", *(f"{system}, s" for system in systems))]
    for way, sites in dict.fromkeys((each["way"], each["sites"]) for each in trainings):
        own = [each["seconds"] for each in trainings if (each["way"], each["sites"]) == (way, sites)]
        for case in (TRAINING, LEARNING):
            found = [
                [seconds[case][system] for seconds in own if system in seconds.get(case, ())]
                for system in systems
            ]
            cells = (f"{median(each):.2f}" if each else "failed" for each in found)
            table.append((way, str(sites), case, *cells))
    return report.markdown_table(table)


def _off(results: Sequence[Result]) -> float:
    """By how many percent the predictions are too long, the median over the turns."""
    return median(
        100 * (each.predicted / each.seconds - 1)
        for each in results
        if each.predicted is not None and each.seconds
    )
