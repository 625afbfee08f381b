"""``flaremesh audit``."""

from enum import StrEnum
from typing import Annotated

import typer

from flaremesh.cli.options import AsJson, Output, SiteName, SiteWorkspace, site_workspace


class Action(StrEnum):
    """What to do with the log."""

    SHOW = "show"
    VERIFY = "verify"


def audit(
    action: Annotated[Action, typer.Argument(help="Print the log, or check every line of it.")],
    workspace: SiteWorkspace = None,
    site: SiteName = None,
    output: Output = None,
    head: Annotated[
        str | None,
        typer.Option(help="With verify: a head that it printed before, whose line must still be there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a site's audit log, or verify that no line of it was changed, moved or removed."""
    from flaremesh.p2p.gate import commands

    place = site_workspace(workspace, site, output)
    show = action is Action.SHOW
    typer.echo(commands.show(place, as_json) if show else commands.verify(place, head, as_json))
