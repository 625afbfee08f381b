"""Which credential the link of a run takes, and what it lets in."""

import pytest

from flaremesh.p2p.charter import Charter
from flaremesh.p2p.credentials import link_credentials

CHARTER = Charter("mesh", "bonn", revoked=("7",))


@pytest.fixture
def folder(tmp_path):
    """Of a run at a site of NVFlare 2.10, whose process wrote the job's credential there."""
    (tmp_path / "job_cert").mkdir()
    for name in ("job.crt", "job.key"):
        (tmp_path / "job_cert" / name).touch()
    return tmp_path


def files(credentials):
    return [file.name for file in (credentials.certificate, credentials.key, credentials.root)]


def test_a_run_takes_what_nvflare_has_issued_to_its_job(folder):
    credentials = link_credentials(folder / "startup", folder, CHARTER, "run-1")
    assert files(credentials) == ["job.crt", "job.key", "rootCA.pem"]
    assert (credentials.job, credentials.revoked) == ("run-1", ("7",))


@pytest.mark.parametrize("missing", ["job.crt", "job.key"])
def test_a_run_takes_what_its_site_has_issued_where_nvflare_has_not_issued_all(folder, missing):
    (folder / "job_cert" / missing).unlink()
    credentials = link_credentials(folder / "startup", folder, CHARTER, "run-1")
    assert files(credentials) == ["run.crt", "run.key", "rootCA.pem"]
    assert credentials.job == "run-1"


def test_the_sites_own_process_takes_nothing_that_is_a_jobs(folder):
    credentials = link_credentials(folder / "startup", folder, CHARTER)
    assert files(credentials) == ["run.crt", "run.key", "rootCA.pem"]
    assert credentials.job is None
