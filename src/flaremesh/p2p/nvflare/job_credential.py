"""The credential that NVFlare gives a job's process, from version 2.10 on (NVFlare #5263).

Its server makes key and leaf for each site when it deploys the job, and the site's own process writes them
into the run's folder before it starts the job's: ``job_cert/job.crt``, the leaf followed by the authority
that signed it, and ``job_cert/job.key``. It removes them when that process has ended. NVFlare 2.9 has none.
"""

from pathlib import Path
from typing import Final

from flaremesh.p2p.nvflare.run_credential import RunCredential

_FOLDER: Final = "job_cert"


def issued_by_nvflare(run_folder: Path) -> RunCredential | None:
    """The files that NVFlare has written into a run's folder; None where they are not both there."""
    files = RunCredential(run_folder / _FOLDER / "job.crt", run_folder / _FOLDER / "job.key")
    return files if all(file.is_file() for file in files) else None
