"""What an admin is told of a job while the server still writes it down."""

from typing import Any

from flaremesh.p2p.nvflare import admin
from flaremesh.p2p.nvflare.admin import Admin

FAILED = {"status": "FINISHED:FAILED_TO_RUN"}
REFUSED = FAILED | {"job_deploy_detail": ["bonn: Error: accepts no code of a job"]}


class Writing:
    """NVFlare's session with a server that has come further at each question."""

    def __init__(self, *metas: dict[str, Any]):
        self._metas = list(metas)

    def get_job_meta(self, run_id: str) -> dict[str, Any]:
        return self._metas.pop(0) if len(self._metas) > 1 else self._metas[0]


def asking(*metas: dict[str, Any]) -> Admin:
    asked = object.__new__(Admin)  # without a login, for which there is no server
    asked._session = Writing(*metas)  # type: ignore[assignment]  # it answers this one question
    return asked


def test_a_job_that_was_refused_is_told_with_the_reasons_which_are_written_after_its_end():
    told = asking({"status": "DISPATCHED"}, FAILED, FAILED, REFUSED)
    assert not told.job("run").ended
    assert told.job("run").details == ("bonn: Error: accepts no code of a job",)


def test_a_job_for_whose_end_nobody_gives_a_reason_is_told_without_one(monkeypatch):
    monkeypatch.setattr(admin, "_EXPLAINED_SECONDS", 0.2)
    told = asking(FAILED).job("run")
    assert told.ended
    assert told.details == ()
