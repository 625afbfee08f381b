"""``flaremesh plan``."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaremesh.cli.options import (
    AsJson,
    Measured,
    Output,
    TopologyFile,
    duration,
    load,
    measurement_in,
    name_code,
    place_of,
)
from flaremesh.cli.outputs import facts, terminal, writable_file
from flaremesh.printable import printable
from flaremesh.topology.links import carried_in_words

if TYPE_CHECKING:
    from rich.table import Table

    from flaremesh.provision.plan import Message, Mixing, NoisePlan, Plan
    from flaremesh.provision.prediction import WireTime

_PICTURES = (".png", ".svg", ".pdf")
_ROWS = 40  # of a table for people; --json has all


def plan(
    topology: TopologyFile,
    output: Output = None,
    build_problem: Annotated[
        bool,
        typer.Option(
            "--build-problem",
            help="Run the code that the file names, beside it too: import the algorithm, and build the first "
            "site's problem, to tell how long messages are.",
        ),
    ] = False,
    measured: Measured = None,
    curious: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="SITES",
            help="Say, too, who could reconstruct what of whom if so many sites put together what they know.",
        ),
    ] = None,
    partition: Annotated[
        Path | None,
        typer.Option(
            help="Draw how many samples of each class each site has, into this file: .png, .svg or .pdf. "
            "Builds the problems of all sites here, and so needs --build-problem.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a topology file means: mixing, sound algorithms, firewalls, changes."""
    from flaremesh.provision.plan import plan as plan_of
    from flaremesh.provision.state import previous

    if measured and not build_problem:
        raise typer.BadParameter("--measured needs --build-problem, which tells how long messages are")
    if partition and not build_problem:
        raise typer.BadParameter("--partition needs --build-problem, which tells what data sites have")
    if partition and partition.suffix not in _PICTURES:
        raise typer.BadParameter(f"{partition} must end in {', '.join(_PICTURES)}", param_hint="--partition")
    loaded = load(topology, executes=build_problem)
    if build_problem:
        name_code(loaded, topology.parent)
    result = plan_of(
        loaded,
        previous(place_of(loaded, output)),
        build_problem=build_problem,
        measurement=measurement_in(measured) if measured else None,
        curious=curious,
    )
    if partition:
        from flaremesh.deploy.reports.partition_plot import plot_of

        writable_file(partition)
        plot_of(loaded).savefig(partition)
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2))
    else:
        _print(result)
    if result.refusal:
        typer.echo(f"Error: {result.refusal}", err=True)
        raise typer.Exit(2)


def _print(plan: "Plan") -> None:
    from rich import box
    from rich.table import Table

    firewall = Table("from", "to", "host", "TCP ports", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in _rows(plan):
        firewall.add_row(*map(printable, row))

    console = terminal(highlight=False)
    console.print(facts(_facts(plan)))
    if plan.exposure:
        from flaremesh.privacy.report import lines

        console.print(facts(lines(plan.exposure)))
    if plan.times:
        console.print(_times(plan.times))
    console.print(firewall)


def _times(times: Sequence["WireTime"]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        *("wire", "bytes per link", "an iteration", "the run", "agreed to 1e-3"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="As measured, without what the problem computes; the run's own wire first",
        title_justify="left",
    )
    for each in times:
        mixing = "never" if each.mixing_seconds is None else duration(each.mixing_seconds)
        table.add_row(
            each.wire, f"{each.payload_bytes:,}", duration(each.seconds), duration(each.run_seconds), mixing
        )
    return table


def _facts(plan: "Plan") -> Iterator[tuple[str, str]]:
    graph, mixing, message = plan.graph, plan.mixing, plan.message
    least, most = graph.in_degrees
    degree = f"{least}" if least == most else f"{least} to {most}"
    yield "mesh", f"{plan.name}: {graph.sites} sites, running {plan.algorithm}"
    yield (
        "graph",
        f"{'directed' if graph.directed else 'undirected'}, in-degree {degree}, {graph.edges} links"
        + (f", {graph.phases} phases in turn" if graph.phases > 1 else ""),
    )
    yield "weights", f"{mixing.weights}: {_stochasticity(mixing)}"
    if mixing.influence:
        low, high = (pick(mixing.influence, key=mixing.influence.__getitem__) for pick in (min, max))
        yield "influence", f"{mixing.influence[low]:.3g} ({low}) to {mixing.influence[high]:.3g} ({high})"
    yield "spectral gap", f"{mixing.spectral_gap:.6g}"
    yield "contraction", _contraction(mixing, graph.phases)
    yield "edges", carried_in_words(plan.carried) + (f"; {plan.advice}" if plan.advice else "")
    yield "message", _message(message)
    if plan.until:
        yield "ends early", f"once the sites agree: {plan.until}"
    yield "neighbours see", plan.seen
    if plan.privacy:
        yield from _noise(plan.privacy)
    by_reason: dict[str | None, list[str]] = {}
    if plan.unseen:
        yield "not looked at", plan.unseen
    for name, reason in plan.algorithms.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        yield "not sound" if reason else "sound", ", ".join(names) + (f": {reason}" if reason else "")
    if plan.redeploy is None:
        yield "redeploy", "everything: nothing is provisioned yet"
    else:
        shown = [f"{who} ({why})" for who, why in islice(plan.redeploy.items(), _ROWS)]
        rest = len(plan.redeploy) - len(shown)
        yield "redeploy", ", ".join(shown + [f"{rest} more"] * (rest > 0)) or "nobody: nothing changed"


def _noise(noise: "NoisePlan") -> Iterator[tuple[str, str]]:
    yield (
        "privacy",
        f"ε {noise.spent:.3g} of {noise.epsilon:g} (δ {noise.delta:g}) for {noise.unit}, "
        f"against {noise.against}",
    )
    fits = (
        "all"
        if noise.iterations == noise.asked
        else f"{noise.iterations} of {noise.asked}: then the run ends"
    )
    yield "noise", f"{noise.noise}, σ {noise.sigma:.4g} × clip; iterations that fit the budget: {fits}"
    model = (
        "" if noise.model_error is None else f", {noise.model_error:.3g} in the mean model at the end at most"
    )
    yield "its error", f"{noise.gradient_error:.3g} per entry in the mean gradient{model}"


def _message(message: "Message") -> str:
    if message.payload_bytes is not None:
        return f"{message.payload_bytes:,} bytes per iteration and link"
    if message.vectors is None:
        return f"unknown: {message.why_unknown}"
    # not times the model: a wire may send fewer bytes of a vector
    vectors = f"{message.vectors} vector{'s' if message.vectors > 1 else ''} as long as the model"
    return f"{vectors} per iteration and link, bytes unknown: {message.why_unknown}"


def _stochasticity(mixing: "Mixing") -> str:
    if mixing.doubly_stochastic:
        return f"{'symmetric and ' if mixing.symmetric else ''}doubly stochastic"
    return f"{'row' if mixing.row_stochastic else 'column'} stochastic"


def _contraction(mixing: "Mixing", phases: int) -> str:
    iterations = mixing.iterations_to_a_thousandth
    if iterations is None:
        return "1 per iteration: the sites never agree"
    if mixing.predicted_contraction == 0:
        return "0: exact after " + (f"one cycle of {phases} iterations" if phases > 1 else "1 iteration")
    cycle = f", {mixing.cycle_contraction:.3g} over a cycle of {phases}" if phases > 1 else ""
    rate = f"{mixing.predicted_contraction:.6g} per iteration{cycle}"
    return f"{rate}; {iterations} iterations to 1e-3 of the start"


def _rows(plan: "Plan") -> Iterator[tuple[str, str, str, str]]:
    """The firewall rules, one row for each target."""
    targets = groupby(plan.firewall, key=lambda rule: (rule.target, rule.host, rule.ports))
    for index, ((target, host, ports), rules) in enumerate(targets):
        if index == _ROWS:
            yield "…", "all: --json", "", ""
            return
        sources = [rule.source for rule in rules]
        yield "every site" if len(sources) == plan.graph.sites else ", ".join(sources), target, host, ports
