"""The files in a kit's folder ``startup``, whose names are NVFlare's."""

from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = "rootCA.pem"
"""The certificate of the mesh's root; it has this name in every kit."""


RUNS: Final = "runs.crt"
"""The certificate with which a site issues those of its runs; NVFlare knows nothing of it."""

DOOR_RESOURCES: Final = "flaremesh_door__p_resources.json"
"""File in a site's ``local`` with its door for jobs; __p_: loaded by the parent process, never by a job's."""


class StartupFiles(NamedTuple):
    """Files of a participant's or an admin's kit.

    Attributes:
        certificate: of the kit's owner.
        key: its private key.
        root: certificate of the mesh's root.
        is_server: the kit is the server's.
    """

    certificate: Path
    key: Path
    root: Path
    is_server: bool


def startup_files(startup: Path) -> StartupFiles:
    """The files in ``startup``; without the server's certificate they are a site's or an admin's."""
    return files_of(startup, is_server=(startup / "server.crt").exists())


def files_of(startup: Path, *, is_server: bool) -> StartupFiles:
    """The files that ``startup`` has in a kit of the server, or in one of a site or an admin."""
    owner = "server" if is_server else "client"
    return StartupFiles(startup / f"{owner}.crt", startup / f"{owner}.key", startup / ROOT, is_server)
