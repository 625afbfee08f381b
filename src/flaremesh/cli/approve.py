"""``flaremesh approve``."""

import typer

from flaremesh.cli.options import Output, RunId, SiteName, SiteWorkspace, person, site_workspace


def approve(
    run: RunId, workspace: SiteWorkspace = None, site: SiteName = None, output: Output = None
) -> None:
    """Approve a run that waits at a site: it may begin there, as `flaremesh pending` shows it."""
    from flaremesh.p2p.gate.approval import Approvals

    approved = Approvals(site_workspace(workspace, site, output)).approve(run, person())
    typer.echo(f"{run} of {approved.request.submitter} is approved by {approved.by}")
