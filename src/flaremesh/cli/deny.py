"""``flaremesh deny``."""

import typer

from flaremesh.cli.options import Output, RunId, SiteName, SiteWorkspace, person, site_workspace


def deny(run: RunId, workspace: SiteWorkspace = None, site: SiteName = None, output: Output = None) -> None:
    """Deny a run that waits at a site, or that was approved there and has not begun."""
    from flaremesh.p2p.gate.approval import Approvals

    denied = Approvals(site_workspace(workspace, site, output)).deny(run, person())
    typer.echo(f"{run} of {denied.request.submitter} is denied by {denied.by}")
