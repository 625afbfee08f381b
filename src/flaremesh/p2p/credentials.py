"""With what a site proves to its neighbours who it is, and to what it holds them."""

from pathlib import Path

from flaremesh.links.credentials import Credentials
from flaremesh.p2p.charter import Charter
from flaremesh.p2p.nvflare.job_credential import issued_by_nvflare
from flaremesh.p2p.nvflare.run_credential import credential_of
from flaremesh.p2p.nvflare.startup import startup_files


def link_credentials(
    startup: Path, run_folder: Path, charter: Charter, job: str | None = None
) -> Credentials:
    """The credential of a run; what the charter revokes is refused.

    It is the one that NVFlare has issued to the job, or else the one of `run_credential.issue`.

    Args:
        startup: the folder in the site's kit.
        run_folder: of a run; the site's own process has its credential in the workspace.
        charter: of the kit.
        job: NVFlare's id of the run; None for the site's own process, which lets in no job's.
    """
    issued = issued_by_nvflare(run_folder) if job is not None else None
    certificate, key = issued or credential_of(run_folder)
    return Credentials(certificate, key, startup_files(startup).root, charter.revoked, job)
