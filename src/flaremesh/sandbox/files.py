"""The files that the process of a job can use."""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from flaremesh.sandbox import landlock
from flaremesh.sandbox.environment import paths
from flaremesh.sandbox.landlock import Access

WRITES_VARIABLE: Final = "FLAREMESH_JOB_WRITES"
"""Names further folders that jobs may write, divided as in PATH."""

HIDES_VARIABLE: Final = "FLAREMESH_JOB_HIDES"
"""Names further files and folders that jobs may not read, divided as in PATH."""

_DEVICES = (
    *("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm"),
    *("nvidia*", "dri", "kfd", "dxg", "infiniband", "gdrdrv"),
)

# in the home of the site's user, who may be a person
_SECRETS = (
    *(".ssh", ".gnupg", ".netrc", ".git-credentials", ".config/gh", ".pypirc"),
    *(".aws", ".azure", ".config/gcloud", ".kube", ".docker"),
    *(".minisign", ".password-store", ".local/share/keyrings", ".config/rclone", ".bash_history"),
)


def confine(workspace: Path, run: str, environment: Mapping[str, str], store: Path | None = None) -> None:
    """Let this process use no other files than a job's process needs; nothing is done without Landlock.

    Args:
        workspace: the participant's, resolved.
        run: the run's id, which is the name of its folder there.
        environment: of this process.
        store: the folder that the run keeps from one attempt to the next, if it has one.

    Raises:
        OSError, RuntimeError: as `landlock.restrict`.
    """
    if landlock.version():
        landlock.restrict(grants(workspace, run, environment, store))


def grants(
    workspace: Path, run: str, environment: Mapping[str, str], store: Path | None = None
) -> Iterator[tuple[Path, Access]]:
    """What the process of a job may do with which files; arguments are those of `confine`.

    Names can be listed everywhere, and content can be read but for that of hidden files. Of its participant's
    workspace the process reads the settings and the certificates, and it writes the run's folder and store.
    There it makes no links: the participant's own process packs that folder, and would follow them.
    """
    home = environment.get("HOME", "")
    secrets = ["/run/secrets", "/var/run/secrets", *(f"{home}/{name}" for name in _SECRETS)]
    hidden = {os.path.realpath(path) for path in (str(workspace), "/dev", *secrets)}
    hidden.update(paths(environment, HIDES_VARIABLE), paths(environment, "FLAREMESH_POLICY"))
    yield Path("/"), Access.LIST
    for part in around("/", hidden):
        yield Path(part), Access.READ
    for pattern in _DEVICES:
        for device in Path("/dev").glob(pattern):
            yield device, Access.WRITE_ANYTHING
    yield workspace / "local", Access.READ
    for file in (workspace / "startup").iterdir():
        if file.is_file() and file.suffix != ".key":
            yield file, Access.READ
    yield workspace / run, Access.WRITE
    if store is not None:
        yield store, Access.WRITE
    # the site's admin has named them: they can be read even within a hidden folder
    for folder in paths(environment, "FLAREMESH_DATA_DIR"):
        if any(folder.startswith(f"{above}/") for above in hidden):
            yield Path(folder), Access.READ
    for folder in paths(environment, "FLAREMESH_METRICS_DIR"):
        yield Path(folder), Access.WRITE
    temporary = {os.path.realpath(f"{environment.get('TMPDIR', '/tmp/run')}/.."), "/tmp", "/var/tmp"}
    for folder in temporary.union(paths(environment, WRITES_VARIABLE)):
        for part in around(folder, hidden):
            yield Path(part), Access.WRITE_ANYTHING


def around(top: str, hidden: Collection[str]) -> Iterator[str]:
    """The greatest parts of ``top`` in which nothing of ``hidden`` lies; all paths are resolved.

    What is made in a folder above a hidden one after this was called is in none of them.
    """
    on_the_way = {str(parent) for path in hidden for parent in Path(path).parents}
    return _around(top, frozenset(hidden), on_the_way)


def _around(path: str, hidden: Collection[str], on_the_way: Collection[str]) -> Iterator[str]:
    if path in hidden:
        return
    if path not in on_the_way:
        yield path
        return
    try:
        with os.scandir(path) as entries:
            # the target of a link is granted where it lies, or not at all
            children = [entry.path for entry in entries if not entry.is_symlink()]
    except FileNotFoundError:
        return
    except PermissionError:  # such a folder can still be passed through
        children = [step for step in on_the_way if str(Path(step).parent) == path]
    for child in children:
        yield from _around(child, hidden, on_the_way)
