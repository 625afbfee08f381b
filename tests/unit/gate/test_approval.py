"""Runs that wait for a person at the site."""

import json
import os

import pytest

from flaremesh.p2p.gate.approval import ApprovalError, Approvals


def test_a_run_waits_until_a_person_approves_it(workspace, request_of):
    request = request_of()

    assert Approvals(workspace).granted(request) is None
    assert Approvals(workspace).ask(request).startswith("waits for approval: ")
    assert [pending.request for pending in Approvals(workspace).waiting()] == [request]

    Approvals(workspace).approve("run-1", by="ada")

    assert Approvals(workspace).granted(request) == "ada"
    assert Approvals(workspace).waiting() == []


def test_the_same_run_submitted_again_waits_once_and_its_approval_holds(workspace, request_of):
    approvals = Approvals(workspace)
    approvals.ask(request_of(job="1"))
    approvals.ask(request_of(job="2"))

    approvals.approve("run-1", by="ada")

    assert approvals.waiting() == []
    assert approvals.granted(request_of(job="3")) == "ada"


@pytest.mark.parametrize(
    "other",
    [
        {"run": "run-2"},
        {"code": {"hospital.models": "b" * 64}},
        {"code": {}},
        {"algorithm": "dgd"},
        {"peers": ("heidelberg", "aachen")},
        {"links": "auto"},
        {"submitter": "eve@example.org"},
        {"order": "b" * 64},
    ],
    ids=lambda other: next(iter(other)),
)
def test_an_approval_holds_for_what_was_asked_and_nothing_else(other, workspace, request_of):
    approvals = Approvals(workspace)
    approvals.ask(request_of())
    approvals.approve("run-1", by="ada")

    assert approvals.granted(request_of(**other)) is None


def test_another_run_does_not_take_the_place_of_the_one_that_a_person_looks_at(workspace, request_of):
    approvals = Approvals(workspace)
    approvals.ask(request_of())

    assert approvals.ask(request_of(algorithm="dgd")) == "another run of the same id waits for approval"
    assert approvals.waiting()[0].request == request_of()


def test_a_denied_run_is_refused_for_good_even_after_its_approval(workspace, request_of):
    approvals = Approvals(workspace)
    approvals.ask(request_of())
    approvals.approve("run-1", by="ada")
    approvals.deny("run-1", by="ada")

    assert approvals.granted(request_of()) is None
    assert approvals.ask(request_of()) == "a person at this site denied it"
    assert approvals.waiting() == []


@pytest.mark.parametrize("run", ["run-2", "../run-1", "", "run-1/", "/etc/passwd", "a\0b"])
def test_what_does_not_wait_cannot_be_approved(run, workspace, request_of):
    approvals = Approvals(workspace)
    approvals.ask(request_of())

    with pytest.raises(ApprovalError, match="waiting: run-1"):
        approvals.approve(run, by="ada")


@pytest.mark.parametrize("run", ["../../startup/client", "a" * 65, "", "a\nb", "-x"])
def test_a_run_id_that_would_be_another_file_is_refused(run, workspace, request_of):
    assert "none that can be approved" in Approvals(workspace).ask(request_of(run=run))
    assert Approvals(workspace).granted(request_of(run=run)) is None


def test_what_waits_is_bounded(workspace, request_of):
    approvals = Approvals(workspace)
    for number in range(100):
        assert approvals.ask(request_of(run=f"run-{number}")).startswith("waits")

    assert approvals.ask(request_of(run="one-more")) == "100 runs wait for approval already"


def test_old_ones_are_forgotten(workspace, request_of):
    approvals = Approvals(workspace)
    approvals.ask(request_of())
    file = workspace / "gate/waiting/run-1.json"
    os.utime(file, (0, 0))

    assert approvals.waiting() == []
    assert not file.exists()


def test_a_damaged_file_is_no_approval(workspace, request_of):
    approvals = Approvals(workspace)
    approvals.ask(request_of())
    approvals.approve("run-1", by="ada")
    file = workspace / "gate/approved/run-1.json"
    file.write_text(json.dumps({"by": "eve"}))

    assert approvals.granted(request_of()) is None
