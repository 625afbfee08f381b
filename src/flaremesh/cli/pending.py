"""``flaremesh pending``."""

import typer

from flaremesh.cli.options import AsJson, Output, SiteName, SiteWorkspace, site_workspace


def pending(
    workspace: SiteWorkspace = None, site: SiteName = None, output: Output = None, as_json: AsJson = False
) -> None:
    """Show the runs that wait at a site until a person there approves them."""
    from flaremesh.p2p.gate import commands

    typer.echo(commands.pending(site_workspace(workspace, site, output), as_json))
