"""``flaremesh doctor``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaremesh.cli.options import AsJson, Output, TopologyFile, Where, load, mesh_folder
from flaremesh.cli.outputs import terminal, writable_file
from flaremesh.deploy.targets import TargetKind, target_of
from flaremesh.printable import printable

if TYPE_CHECKING:
    from flaremesh.deploy.targets.base import Target
    from flaremesh.deploy.watch.diagnosis import Diagnosis  # brings NVFlare, which --help does not need
    from flaremesh.p2p.agents.doctor import Report
    from flaremesh.provision.measured import Measurement
    from flaremesh.topology.schema import Topology


def doctor(
    topology: TopologyFile,
    where: Where = TargetKind.LOCAL,
    output: Output = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure instead how fast every edge is, and write measured.json into the mesh's folder, "
            "for `flaremesh plan` and `flaremesh tune`.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Try every edge and look at every participant; say what is wrong and what to do."""
    from flaremesh.deploy.watch.diagnosis import diagnose

    loaded = load(topology)
    mesh = mesh_folder(loaded, output)
    target = target_of(where, loaded, mesh)
    if measure:
        _measure(loaded, target, mesh, as_json=as_json)
        return
    diagnosis = diagnose(loaded, target, mesh)
    if as_json:
        typer.echo(json.dumps(asdict(diagnosis), indent=2))
    else:
        _show(diagnosis)
    if diagnosis.findings:
        raise typer.Exit(1)


def _measure(topology: "Topology", target: "Target", mesh: Path, *, as_json: bool) -> None:
    from flaremesh import atomic
    from flaremesh.deploy.watch import measuring
    from flaremesh.provision import measured

    file = writable_file(mesh / measured.FILE)
    measurement = measuring.measure(topology, target, lambda words: typer.echo(words, err=True))
    document = measured.to_json(measurement)
    atomic.write(file, document)
    if as_json:
        typer.echo(document, nl=False)
    else:
        _show_speeds(measurement)
    for edge in measurement.unmeasured:
        typer.echo(printable(f"{edge.source} → {edge.target} was not measured: {edge.why}."), err=True)
    typer.echo(
        f"Wrote {file}: `flaremesh plan --measured` and `flaremesh tune --measured` read it.", err=True
    )
    if measurement.unmeasured:
        raise typer.Exit(1)


def _show_speeds(measurement: "Measurement") -> None:
    from rich.table import Table

    speeds = Table("from", "to", "link", "round trip, ms", "alone, Mbit/s", "with all others, Mbit/s")
    for edge in measurement.edges:
        figures = (1e3 * edge.round_trip, 8e-6 * edge.rate, 8e-6 * edge.busy_rate)
        speeds.add_row(edge.source, edge.target, edge.link, *(f"{figure:.4g}" for figure in figures))
    terminal().print(speeds)


def _show(diagnosis: "Diagnosis") -> None:
    from rich.table import Table

    console = terminal()
    participants = Table("participant", "server", "flaremesh", "certificate", "storage", "GPUs")
    for name, report in diagnosis.reports.items():
        nothing = "elsewhere" if name in diagnosis.elsewhere else "no report"
        participants.add_row(name, *(_cells(report) if report else [nothing]))
    console.print(participants)
    links = Table("from", "to", "link", "address", "state")
    for link in diagnosis.links:
        state = "not tried" if link.ok is None else "ok" if link.ok else "failed"
        links.add_row(link.source, link.target, link.kind, link.address, state)
    console.print(links)
    for finding in diagnosis.findings:
        typer.echo(f"{finding.what} {finding.remedy}")
    if not diagnosis.findings:
        typer.echo("Nothing is wrong.")
    loose = [name for name, report in diagnosis.reports.items() if report and not report.confined]
    if loose:
        typer.echo(
            "Not confined by the kernel, so that the code of a run can read the key there: "
            f"{', '.join(loose)}. Landlock needs Linux 5.13; "
            "`confinement: required` in a site's policy refuses runs without it."
        )
    if diagnosis.elsewhere:
        typer.echo(
            f"Not looked at, since nothing of theirs is on this cluster: {', '.join(diagnosis.elsewhere)}. "
            "`helm test` says there how they are."
        )


def _cells(report: "Report") -> list[str]:
    return [
        ", ".join(report.missing) or "ok",
        report.versions.get("flaremesh", "none"),
        f"{report.certificate_days:.0f} days",
        f"{report.free_bytes / 1e9:.1f} GB free",
        f"{report.visible_gpus or 0} of {report.gpus}" if report.gpus else "",
    ]
