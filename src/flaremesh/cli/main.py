"""The ``flaremesh`` command: one module per subcommand, imported when it is called.

So ``--help`` answers at once, and no command waits for a library that only another one needs.
"""

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from flaremesh import __version__, import_path
from flaremesh.cli.interruption import interruptible
from flaremesh.cli.outputs import FileError
from flaremesh.deploy import proxies
from flaremesh.errors import FlaremeshError
from flaremesh.printable import printable

_LONGEST_LINE: Final = 10_000

COMMANDS: Final = {
    "plan": "Show what a topology file means: mixing, sound algorithms, firewalls, changes.",
    "privacy": "Say who could reconstruct what of whom from the messages of a run, and what to change.",
    "algorithms": "List the algorithms: what each needs, sends and leads to, and where it was published.",
    "provision": (
        "Make the startup kits of a mesh, or bring them up to date; what needs no change is not touched."
    ),
    "request": "Make a participant's private key where it stays, and the request for its certificate.",
    "sign": "Make the kit of a participant that keeps its private key to itself.",
    "schema": "Print the JSON Schema of topology files, for completion and checks in editors.",
    "simulate": "Run all sites of a topology in this process, with the code of a real run.",
    "sweep": "Try a grid of settings in the simulator, and print what came of each.",
    "up": "Start the server and all sites, from kits that are made first where they are missing or old.",
    "run": "Run the topology's algorithm on a mesh that is up, watch it, and fetch what it leaves behind.",
    "runs": "Show the runs that the server of a mesh knows, with their state, the newest last.",
    "attach": (
        "Follow a run that was left, or has ended, and fetch what it leaves behind; Ctrl-C leaves it alone."
    ),
    "abort": (
        "End a run that goes on, also while it waits for its next attempt; one that has ended stays as it is."
    ),
    "resume": (
        "Let a run that has ended without finishing go on from its checkpoints; Ctrl-C leaves it alone."
    ),
    "status": "Show the processes, the registered sites and the runs of a mesh.",
    "top": "Watch a mesh live: every site's progress, speed, loss, waiting and traffic. Ctrl-C ends it.",
    "monitor": "Open the dashboards of a mesh that is up, in Grafana over Prometheus, until Ctrl-C.",
    "doctor": "Try every edge and look at every participant; say what is wrong and what to do.",
    "tune": (
        "Propose the graph and the wire with which the sites agree soonest, of the edges that were measured."
    ),
    "report": "Draw a run, finished or not: PNGs and one page that holds them. Or compare several runs.",
    "model": "Write the model that a run has made: a state_dict, or safetensors.",
    "bundle": (
        "Make one archive from which a participant without internet is installed; it holds the private key."
    ),
    "meet": (
        "Join the connections of sites that nobody can dial, blind to what passes, until Ctrl-C or SIGTERM."
    ),
    "down": "Stop the sites, then the server; running runs are aborted.",
    "pending": "Show the runs that wait at a site until a person there approves them.",
    "approve": "Approve a run that waits at a site: it may begin there, as `flaremesh pending` shows it.",
    "deny": "Deny a run that waits at a site or is approved, or further attempts of one that has begun.",
    "audit": "Show a site's audit log, or verify that no line of it was changed, moved or removed.",
}
"""Every command, in the order of ``--help``, with its line there, the first line of its docstring.

A command is the function of its name in the module of its name in ``flaremesh.cli``.
"""


class Commands(TyperGroup):
    """Imports a command when it is called, and turns errors that a user can act on into exit codes."""

    def __init__(self, **attributes: Any):
        lines = {name: TyperCommand(name, help=line) for name, line in COMMANDS.items()}
        super().__init__(**attributes | {"commands": lines})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the first argument names, imported now."""
        name, line, rest = super().resolve_command(ctx, args)
        return name, line and _imported(line.name), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand."""
        _forgive()
        proxies.spare()
        try:
            with interruptible(), import_path.restored():
                import_path.leave_out(Path.cwd())
                return super().invoke(ctx)
        except FlaremeshError as error:
            raise _failure(f"Error: {error}", error.exit_code) from None
        except BrokenPipeError:
            raise  # the reader of the output has ended: typer ends without a message
        except OSError as error:
            raise _failure(f"Error: {FileError.of(error)}", 1) from None
        except KeyboardInterrupt as interrupt:
            raise _failure(str(interrupt) or "Interrupted.", getattr(interrupt, "exit_code", 130)) from None


def _imported(name: str | None) -> Any:
    """The command of that name, with the parameters of its function."""
    command = typer.Typer(add_completion=False)
    command.command()(getattr(import_module(f"flaremesh.cli.{name}"), str(name)))
    return typer.main.get_command(command)


def _failure(message: str, exit_code: int) -> typer.Exit:
    try:
        sys.stdout.flush()
    except OSError:  # its buffered output would fail again at the end of the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # a message may quote strangers, whose words a terminal must not obey
    typer.echo("\n".join(printable(line, _LONGEST_LINE) for line in message.splitlines()), err=True)
    return typer.Exit(exit_code)


def _forgive() -> None:
    """Print a question mark for a character that the terminal lacks, instead of failing."""
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


if __name__ == "__main__":
    app()
