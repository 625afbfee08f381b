"""What of a site's environment the process of a job sees."""

import pytest

from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE
from flaremesh.p2p.gate.policy import POLICY_VARIABLE
from flaremesh.problems.data_folder import DATA_DIR_VARIABLE
from flaremesh.sandbox.environment import MORE_VARIABLE, PASSED, of_job, withheld_proxies
from flaremesh.sandbox.files import HIDES_VARIABLE, WRITES_VARIABLE

TMP = "/tmp/flaremesh-1"


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "HF_TOKEN", "path", "FLAREMESH_GPUS"]
)
def test_a_job_does_not_see_what_is_not_listed(name):
    assert name not in of_job({name: "secret"}, TMP)


@pytest.mark.parametrize("name", ["PATH", "LC_ALL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH"])
def test_a_job_sees_what_computing_needs(name):
    assert of_job({name: "value"}, TMP)[name] == "value"


def test_flaremeshs_own_variables_that_a_job_needs_are_listed():
    needed = {DATA_DIR_VARIABLE, DIRECTORY_VARIABLE, HIDES_VARIABLE, WRITES_VARIABLE, POLICY_VARIABLE}
    assert needed <= PASSED.keys()


def test_a_sites_admin_can_list_more():
    given = {MORE_VARIABLE: "HF_HOME, MY_*", "HF_HOME": "/models", "MY_FLAG": "1", "HF_TOKEN": "secret"}
    seen = of_job(given, TMP)
    assert (seen["HF_HOME"], seen["MY_FLAG"]) == ("/models", "1")
    assert "HF_TOKEN" not in seen


def test_no_site_can_let_jobs_import_from_the_folder_in_which_they_work():
    assert of_job({"PYTHONSAFEPATH": ""}, TMP)["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize("proxy", ["http://proxy:3128", "proxy:3128", "localhost,.svc"])
def test_a_proxy_is_passed(proxy):
    assert of_job({"https_proxy": proxy}, TMP)["https_proxy"] == proxy
    assert not withheld_proxies({"https_proxy": proxy})


@pytest.mark.parametrize("proxy", ["http://me:secret@proxy:3128", "me:secret@proxy:3128"])
def test_a_proxy_with_a_password_is_withheld_and_named_unless_it_is_listed(proxy):
    assert "https_proxy" not in of_job({"https_proxy": proxy}, TMP)
    assert withheld_proxies({"https_proxy": proxy}) == ["https_proxy"]
    listed = {"https_proxy": proxy, MORE_VARIABLE: "https_proxy"}
    assert "https_proxy" in of_job(listed, TMP)
    assert not withheld_proxies(listed)


def test_what_is_compiled_is_cached_in_the_runs_own_folder_unless_the_site_says_where():
    assert of_job({"TMPDIR": "/tmp"}, TMP)["TMPDIR"] == TMP
    assert of_job({}, TMP)["TRITON_CACHE_DIR"].startswith(TMP)
    listed = {MORE_VARIABLE: "TRITON_*", "TRITON_CACHE_DIR": "/cache"}
    assert of_job(listed, TMP)["TRITON_CACHE_DIR"] == "/cache"
