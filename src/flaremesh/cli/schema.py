"""``flaremesh schema``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.outputs import writable_file
from flaremesh.topology.schema import Topology


def schema(
    output: Annotated[Path | None, typer.Option(help="File to write to; default: standard output.")] = None,
) -> None:
    """Print the JSON Schema of topology files, for completion and checks in editors."""
    text = json.dumps(Topology.model_json_schema(), indent=2) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        writable_file(output).write_text(text)
