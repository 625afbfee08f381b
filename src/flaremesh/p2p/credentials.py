"""With what a site proves to its neighbours who it is, and to what it holds them."""

from pathlib import Path

from flaremesh.links.credentials import Credentials
from flaremesh.p2p.charter import Charter
from flaremesh.p2p.nvflare.run_credential import credential_of
from flaremesh.p2p.nvflare.startup import startup_files


def link_credentials(startup: Path, run_folder: Path, charter: Charter) -> Credentials:
    """The credential that `run_credential.issue` has put into a folder; what the charter revokes is refused.

    Args:
        startup: the folder in the site's kit.
        run_folder: of a run; the site's own process has its credential in the workspace.
        charter: of the kit.
    """
    certificate, key = credential_of(run_folder)
    return Credentials(certificate, key, startup_files(startup).root, charter.revoked)
