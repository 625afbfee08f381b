"""The ``flaremesh`` command; one module per subcommand."""

import os
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flaremesh import __version__
from flaremesh.cli.bundle import bundle
from flaremesh.cli.doctor import doctor
from flaremesh.cli.down import down
from flaremesh.cli.interruption import interruptible
from flaremesh.cli.monitor import monitor
from flaremesh.cli.outputs import FileError
from flaremesh.cli.plan import plan
from flaremesh.cli.provision import provision
from flaremesh.cli.report import report
from flaremesh.cli.run import run
from flaremesh.cli.schema import schema
from flaremesh.cli.simulate import simulate
from flaremesh.cli.status import status
from flaremesh.cli.top import top
from flaremesh.cli.up import up
from flaremesh.deploy import proxies
from flaremesh.errors import FlaremeshError


class Commands(TyperGroup):
    """Turns the errors that a user can act on into a message and an exit code; the one place that does."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand."""
        _forgive()
        proxies.spare()
        try:
            with interruptible():
                return super().invoke(ctx)
        except FlaremeshError as error:
            raise _failure(f"Error: {error}", error.exit_code) from None
        except BrokenPipeError:
            raise  # whoever read the output has seen enough: typer ends in silence
        except OSError as error:
            raise _failure(f"Error: {FileError.of(error)}", 1) from None
        except KeyboardInterrupt as interrupt:
            raise _failure(str(interrupt) or "Interrupted.", getattr(interrupt, "exit_code", 130)) from None


def _failure(message: str, exit_code: int) -> typer.Exit:
    try:
        sys.stdout.flush()
    except OSError:  # what it still holds would fail again at the end of the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    typer.echo(message, err=True)
    return typer.Exit(exit_code)


def _forgive() -> None:
    """Print a question mark for a character that the terminal has not, instead of ending there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


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
