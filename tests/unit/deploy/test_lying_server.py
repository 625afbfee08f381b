"""What an admin's session makes of a server that answers anything."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaremesh.deploy.runs import follow
from flaremesh.deploy.runs.session import AdminSession
from flaremesh.p2p.nvflare.jobs import Job, id_of, is_id, job_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "state",
    "sites",
    "result",
    "name",
    "status",
    "job_deploy_detail",
    "schedule_history",
    "first_failure",
    "missing",
    "lost",
    "given_up",
    "cloned_from",
    "submitter_name",
    "submit_time",
]


@dataclass
class Told:
    """An admin's client of a server that answers this."""

    progress: Any = None
    kept: bytes | None = None
    listed: Mapping[str, Job] = field(default_factory=dict)

    def ask_job(self, run_id: str, topic: str) -> Any:
        return self.progress

    def download(self, run_id: str, name: str, most: int) -> bytes | None:
        assert name == "flaremesh/result.json"
        assert most < 100 << 20
        return self.kept

    def jobs(self) -> Mapping[str, Job]:
        return self.listed


def session(**told: Any) -> AdminSession:
    return AdminSession(Told(**told), ["bonn", "ulm"])


@given(progress=st.dictionaries(st.sampled_from(KEYS) | st.text(), JSON) | JSON)
def test_progress_of_any_form_is_progress_or_none(progress):
    told = session(progress=progress).progress("run-1")
    assert told is None or str(told).isprintable()


def test_progress_that_cannot_be_read_is_logged_once(caplog):
    asked = session(progress={"state": "running", "sites": {"bonn": {"iteration": "\x1b[2J"}}})
    with caplog.at_level(logging.WARNING):
        assert asked.progress("run-1") is None
        assert asked.progress("run-1") is None
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "what the server tells of the run run-1 is not the progress of a run"
    )
    assert "\x1b" not in record.getMessage()


def test_sites_that_the_mesh_has_not_are_ignored():
    progress = {"state": "running", "sites": {"bonn": {"iteration": 1}, "moon": {"iteration": 2}}}
    assert session(progress=progress).progress("run-1").sites.keys() == {"bonn"}


@pytest.mark.parametrize(
    "kept", [b"{", b"[]", json.dumps({"run_id": "x" * 300, "outcome": "finished"}).encode()]
)
def test_a_result_that_cannot_be_read_is_a_failure_with_that_reason(kept):
    result = follow._downloaded(session(kept=kept), "run-1")
    assert result.outcome == "failed"
    assert result.reason.startswith("what the server keeps of the run run-1 is not the result of a run: ")


def test_a_server_that_lists_jobs_without_end_is_asked_about_some_of_them():
    listed = {f"run-{n}": Job("mine", "RUNNING", (), None) for n in range(5000)}
    assert len(session(listed=listed).unfinished()) == 1000


@given(
    meta=st.dictionaries(st.sampled_from(KEYS), JSON).map(lambda meta: meta | {"status": meta.get("status")})
)
def test_a_jobs_meta_is_told_in_printable_words(meta):
    try:
        job = job_of(meta)
    except TypeError:  # a list that is none
        return
    words = (job.name, job.status, job.submitter, job.first_failure, job.lost, job.given_up, job.cloned_from)
    assert all((word or "").isprintable() for word in (*words, *job.details))
    assert all(site.isprintable() for site in job.missing)
    assert all(0 <= moment < 1e11 for moment in (job.submitted, *job.missing.values()))


def test_a_jobs_meta_has_an_end():
    endless = {"missing": {f"{n}" + "x" * 10**3: 1.0 for n in range(20_000)}}
    long = {"status": "S" * 10**6, "name": "n" * 10**6, "job_deploy_detail": ["d" * 10**6] * 5000}
    assert len(str(job_of(long))) < 1_000_000
    assert len(str(job_of({"status": "RUNNING"} | endless))) < 3_000_000


@pytest.mark.parametrize("value", ["", "../x", "/etc", "a b", "a/b", "ä", "x" * 65, 7, None, ["x"], "run\n"])
def test_what_cannot_be_an_id_is_none(value):
    assert not is_id(value)
    with pytest.raises(ValueError, match="an id that cannot be one"):
        id_of({"job_id": value})
