"""``flaremesh deny``."""

import typer

from flaremesh.cli.options import Output, RunId, SiteName, SiteWorkspace, site_workspace


def deny(run: RunId, workspace: SiteWorkspace = None, site: SiteName = None, output: Output = None) -> None:
    """Deny a run that waits at a site or is approved, or further attempts of one that has begun."""
    from flaremesh.p2p.gate import commands

    typer.echo(commands.deny(site_workspace(workspace, site, output), run))
