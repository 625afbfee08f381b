"""The ``flaremesh`` command; one module per subcommand."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flaremesh import __version__
from flaremesh.cli.bundle import bundle
from flaremesh.cli.doctor import doctor
from flaremesh.cli.down import down
from flaremesh.cli.monitor import monitor
from flaremesh.cli.plan import plan
from flaremesh.cli.provision import provision
from flaremesh.cli.report import report
from flaremesh.cli.run import run
from flaremesh.cli.schema import schema
from flaremesh.cli.simulate import simulate
from flaremesh.cli.status import status
from flaremesh.cli.top import top
from flaremesh.cli.up import up
from flaremesh.errors import FlaremeshError


class Commands(TyperGroup):
    """Turns the errors that a user can act on into a message and an exit code; the one place that does."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except FlaremeshError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def flaremesh(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """From one topology file to a finished, watched peer-to-peer run on NVIDIA FLARE."""


app.command()(plan)
app.command()(provision)
app.command()(schema)
app.command()(simulate)
app.command()(up)
app.command()(run)
app.command()(status)
app.command()(top)
app.command()(monitor)
app.command()(doctor)
app.command()(report)
app.command()(bundle)
app.command()(down)


if __name__ == "__main__":
    app()
