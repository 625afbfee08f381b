"""``flaremesh privacy``."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flaremesh.cli.options import AsJson, TopologyFile, load
from flaremesh.cli.outputs import facts, terminal

Curious = Annotated[
    int, typer.Option("--curious", min=1, metavar="SITES", help="So many sites put together what they know.")
]
Exchanges = Annotated[
    int | None,
    typer.Option("--exchanges", min=1, max=1000, metavar="NUMBER", help="How many exchanges to look at."),
]


def privacy(
    topology: TopologyFile, curious: Curious = 1, exchanges: Exchanges = None, as_json: AsJson = False
) -> None:
    """Say who could reconstruct what of whom from the messages of a run, and what to change."""
    from flaremesh.privacy.report import lines
    from flaremesh.provision.plan import check, exposure

    loaded = load(topology)
    found = exposure(loaded, check(loaded), curious, exchanges)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        terminal(highlight=False).print(facts(lines(found)))
