"""``flaremesh audit``."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from flaremesh.cli.options import AsJson, Output, SiteName, SiteWorkspace, print_json, site_workspace


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
        typer.Option(help="With verify: a head that it printed before, and whose line must be there still."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a site's audit log, or verify that no line of it was changed, moved or removed."""
    from flaremesh.p2p.gate import audit as log

    place = site_workspace(workspace, site, output)
    if action is Action.SHOW:
        entries = log.entries(place)
        if as_json:
            print_json(list(entries))
            return
        for entry in entries:
            typer.echo(_line(entry))
        return
    verified = log.verify(place, head)
    if as_json:
        print_json({"lines": verified.lines, "head": verified.head, "torn": verified.torn})
        return
    for number in verified.torn:
        typer.echo(f"line {number} was torn when a process ended while it wrote; the next line says so")
    typer.echo(f"{verified.lines} lines, each signed by the site and in its place; head {verified.head}")


_PROOF = ("sequence", "time", "event", "certificate", "previous", "signature")


def _line(entry: dict[str, Any]) -> str:
    """An entry for people, without what proves it."""
    from flaremesh.topology.mistakes import visible

    said = (
        visible(f"{name}={_word(value)}") for name, value in entry.items() if name not in _PROOF and value
    )
    return f"{entry['sequence']:>5}  {entry.get('time')}  {entry['event']:<8}  {'  '.join(said)}"


def _word(value: Any) -> str:
    match value:
        case dict():
            return ",".join(f"{name}:{part}" for name, part in value.items())
        case list():
            return ",".join(map(str, value))
    return str(value)
