"""``flaremesh approve``."""

import typer

from flaremesh.cli.options import Output, RunId, SiteName, SiteWorkspace, site_workspace


def approve(
    run: RunId, workspace: SiteWorkspace = None, site: SiteName = None, output: Output = None
) -> None:
    """Approve a run that waits at a site: it may begin there, as `flaremesh pending` shows it."""
    from flaremesh.p2p.gate import commands

    typer.echo(commands.approve(site_workspace(workspace, site, output), run))
