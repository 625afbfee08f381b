"""``flaremesh provision``."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from flaremesh.cli.options import AsJson, Output, TopologyFile, load, mesh_folder
from flaremesh.cli.outputs import writable_folder

if TYPE_CHECKING:
    from flaremesh.provision.kits import Provisioned  # brings NVFlare, which --help does not need


def provision(
    topology: TopologyFile,
    output: Output = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete kit and private key of everybody who left the file.")
    ] = False,
    renew: Annotated[
        list[str] | None,
        typer.Option("--renew", help="Give this participant a new key and certificate; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the startup kits of a mesh, or bring them up to date; what needs no change is not touched."""
    from flaremesh.provision import kits
    from flaremesh.provision.plan import check

    loaded = load(topology)
    check(loaded)
    mesh = writable_folder(mesh_folder(loaded, output))
    result = kits.provision(loaded, mesh, remove=remove, renew=renew or ())
    if as_json:
        typer.echo(_json(result))
        return
    typer.echo(f"{len(result.kits)} kits in {mesh / 'kits'}; who must reach whom: {mesh / 'firewall.md'}")
    for line in _changes(result):
        typer.echo(f"  {line}")
    root, *others = result.certificates
    first = min(others, key=lambda certificate: certificate.expires)
    typer.echo(
        f"Days until certificates expire: root {root.days_left}, "
        f"first of the participants {first.holder} {first.days_left}"
    )
    if result.root_kept:
        sha256, made = result.root
        typer.echo(
            f"Root: of {made:%Y-%m-%d}, SHA-256 {sha256}, from {mesh / 'state'}. Whoever else has its "
            "key there, as the sender of a folder has, can make kits of this mesh"
        )
    typer.echo(f"Next: flaremesh up {topology}{f' --output {output}' if output else ''}")


def _changes(result: "Provisioned") -> Iterator[str]:
    if result.added:
        yield f"new      {', '.join(result.added)}"
    for name in result.changed:
        why = f" (new certificate: {result.reissued[name]})" if name in result.reissued else ""
        yield f"changed  {name}{why}; deploy it again"
    for name in result.removed:
        yield f"removed  {name}: destroy the kit it got"
    for certificate in result.retired:
        yield (
            f"retired  the certificate {certificate.serial} of {certificate.holder}, valid until "
            f"{certificate.expires:%Y-%m-%d}"
        )
    if serials := ", ".join(f"'{certificate.serial}'" for certificate in result.retired):
        yield f"         to close that for good, and in all kits, certificates: {{revoked: [{serials}]}}"
    for folder in result.kept:
        yield f"kept     {folder}: what lay beside the kit or the values that were made"
    if not (result.added or result.changed or result.removed):
        yield "nothing changed"


def _json(result: "Provisioned") -> str:
    document = {
        "kits": {name: str(path) for name, path in result.kits.items()},
        "added": result.added,
        "changed": result.changed,
        "removed": result.removed,
        "kept": [str(folder) for folder in result.kept],
        "reissued": result.reissued,
        "certificates": {
            certificate.holder: {
                "expires": certificate.expires.isoformat(),
                "days_left": certificate.days_left,
                "serial": str(certificate.serial),
            }
            for certificate in result.certificates
        },
        "root": {"sha256": result.root[0], "kept": result.root_kept},
        "retired": {certificate.holder: str(certificate.serial) for certificate in result.retired},
    }
    return json.dumps(document, indent=2)
