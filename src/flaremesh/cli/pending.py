"""``flaremesh pending``."""

import typer

from flaremesh.cli.options import AsJson, Output, SiteName, SiteWorkspace, print_json, site_workspace


def pending(
    workspace: SiteWorkspace = None, site: SiteName = None, output: Output = None, as_json: AsJson = False
) -> None:
    """Show the runs that wait at a site until a person there approves them."""
    from flaremesh.p2p.gate.approval import PENDING, Approvals
    from flaremesh.topology.mistakes import visible

    waiting = Approvals(site_workspace(workspace, site, output)).waiting()
    if as_json:
        print_json([PENDING.data(run) for run in waiting])
        return
    if not waiting:
        typer.echo("no run waits for approval")
    for run in waiting:
        asked = run.request
        typer.echo(f"{asked.run}  since {run.asked:%Y-%m-%d %H:%M} UTC")
        for name, value in {
            "submitter": f"{asked.submitter}, {asked.role} of {asked.org}",
            "mesh": asked.mesh or "not said",
            "algorithm": asked.algorithm,
            "problem": asked.problem or "the algorithm's own",
            "sites": ", ".join(asked.sites) or "not said",
            "peers": ", ".join(asked.peers) or "none",
            "links": asked.links,
            "code": "flaremesh's own" if not asked.code else "",
        }.items():
            typer.echo(f"  {name:<10} {visible(value)}".rstrip())
        for path, sha256 in sorted(asked.code.items()):
            typer.echo(f"    {sha256}  {visible(path)}")
