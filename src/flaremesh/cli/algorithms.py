"""``flaremesh algorithms``."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from flaremesh.cli.options import AsJson, load
from flaremesh.cli.outputs import terminal


def algorithms(
    topology: Annotated[
        Path | None,
        typer.Argument(metavar="[TOPOLOGY]", help="A topology file: says also which are sound on its graph."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the algorithms: what each needs, sends and leads to, and where it was published."""
    from flaremesh.algorithms import algorithm_class, names

    found = {name: _described(algorithm_class(name)) for name in names()}
    if topology is not None:
        from flaremesh.provision.plan import unsoundness
        from flaremesh.topology.mesh import build

        mesh = build(load(topology))
        for name, described in found.items():
            described["unsound"] = unsoundness(name, mesh)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _show(found, on_a_graph=topology is not None)


def _described(algorithm: Any) -> dict[str, Any]:
    return {
        "weights": algorithm.weights.value,
        "messages": [exchange._asdict() for exchange in algorithm.exchanges],
        "leads_to": algorithm.fixed_point.value,
        "hyperparameters": [field.name for field in fields(algorithm)],
        "masked_start": hasattr(algorithm, "masked"),
        "paper": algorithm.paper,
    }


def _show(found: dict[str, dict[str, Any]], *, on_a_graph: bool) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        "algorithm", "mixing matrix", "sends", "leads to", "masked start", "paper", box=box.SIMPLE_HEAD
    )
    if on_a_graph:
        table.add_column("on this graph")
    for name, described in found.items():
        row = [name, described["weights"], _sent(described["messages"]), described["leads_to"]]
        row += ["yes" if described["masked_start"] else "no", described["paper"]]
        if on_a_graph:
            row.append(described["unsound"] or "sound")
        table.add_row(*row)
    terminal(highlight=False).print(table)


def _sent(messages: list[dict[str, int]]) -> str:
    """What a site sends to each out-neighbour in an iteration."""
    vectors, scalars = (sum(message[kind] for message in messages) for kind in ("vectors", "scalars"))
    sent = f"{vectors} {'vector' if vectors == 1 else 'vectors'}"
    sent += f" and {scalars} number" if scalars else ""
    return sent if len(messages) == 1 else f"{sent}, in {len(messages)} messages"
