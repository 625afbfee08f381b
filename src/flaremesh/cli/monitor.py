"""``flaremesh monitor``."""

from typing import Annotated

import typer

from flaremesh.cli.interruption import until_interrupted
from flaremesh.cli.options import Output, TopologyFile, Where, load, mesh_folder
from flaremesh.cli.outputs import writable_folder
from flaremesh.deploy.targets import TargetKind


def monitor(
    topology: TopologyFile,
    where: Where = TargetKind.LOCAL,
    output: Output = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of this machine for Grafana.")] = 3000,
    prometheus_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of this machine for Prometheus.")
    ] = 9090,
) -> None:
    """Open the dashboards of a mesh that is up, in Grafana over Prometheus, until Ctrl-C.

    On this machine and on Docker both are started, and end with this command; the data stay in the mesh's
    folder. On Kubernetes they are installed, and stay.
    """
    from flaremesh.deploy.watch.monitor import Ports, monitor

    loaded = load(topology)
    ports = Ports(prometheus_port, port)
    with (
        until_interrupted(),
        monitor(where, loaded, writable_folder(mesh_folder(loaded, output)), ports) as opened,
    ):
        if opened.grafana:
            typer.echo(f"Dashboards: {opened.grafana}")
        typer.echo(f"Prometheus: {opened.prometheus}")
        for remark in opened.remarks:
            typer.echo(remark)
        typer.echo("Ctrl-C ends this.")
        opened.watch()
