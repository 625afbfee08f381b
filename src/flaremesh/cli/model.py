"""``flaremesh model``."""

from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.outputs import writable_file


def model(
    run: Annotated[Path, typer.Argument(help="Folder of a run: build/<mesh>/runs/<run id>.")],
    output: Annotated[
        Path, typer.Option(help="File to write: a state_dict if it ends in .pt or .pth, else safetensors.")
    ],
    site: Annotated[
        str | None, typer.Option("--site", help="Whose model; default: the mean of all sites' models.")
    ] = None,
    best: Annotated[
        bool,
        typer.Option(
            "--best",
            help="As it was when the first metric of run.until was best at the site where it is worst.",
        ),
    ] = False,
) -> None:
    """Write the model that a run has made: a state_dict, or safetensors."""
    from flaremesh.deploy.runs.models import model_of, write_model

    found = model_of(run, site, best=best)
    write_model(found, writable_file(output))
    typer.echo(
        f"{output}: {len(found)} tensors, {sum(tensor.numel() for tensor in found.values()):,} numbers"
    )
