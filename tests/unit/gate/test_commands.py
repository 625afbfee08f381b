"""The commands of a site's own admin."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from flaremesh.p2p.gate import commands, policy
from flaremesh.p2p.gate.approval import Approvals
from flaremesh.p2p.gate.audit import AuditLog
from flaremesh.p2p.gate.begun import Begun
from flaremesh.p2p.gate.consent import check
from flaremesh.p2p.gate.request import Refused


@pytest.fixture
def flaremesh(tmp_path):
    def call(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "flaremesh", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )

    return call


def test_a_person_sees_what_waits_and_approves_it(flaremesh, workspace, request_of):
    (workspace / "policy.yaml").write_text("approval: required")
    request = request_of(code={"problem\x1b[2J.py": "c" * 64})
    with pytest.raises(Refused, match=r"^waits for approval"):
        check(workspace, request)

    shown = flaremesh("pending", workspace).stdout
    for word in ("run-1", "lead@consortium.org", "gtadam", "heidelberg, bonn, aachen", "direct", "c" * 64):
        assert word in shown
    assert r"problem\x1b[2J.py" in shown

    assert "run-1 of lead@consortium.org is approved by" in flaremesh("approve", "run-1", workspace).stdout
    assert check(workspace, request)
    assert flaremesh("pending", workspace).stdout == "no run waits for approval\n"
    assert "approved" in flaremesh("audit", "show", workspace).stdout


def test_a_person_sees_which_run_another_one_continues(workspace, request_of):
    Approvals(workspace).ask(request_of(continues="run-0"))
    assert "continues  run-0, from its checkpoints" in commands.pending(workspace, as_json=False)


def test_in_a_pod_the_environment_names_the_workspace(flaremesh, workspace, request_of):
    Approvals(workspace).ask(request_of())

    ended = flaremesh("pending", "--json", FLAREMESH_WORKSPACE=str(workspace))
    assert json.loads(ended.stdout)[0]["request"]["run"] == "run-1"
    assert flaremesh("deny", "run-1", FLAREMESH_WORKSPACE=str(workspace)).returncode == 0
    assert flaremesh("approve", "run-1", workspace).returncode == 1


def test_what_a_site_has_begun_is_denied_as_well(flaremesh, workspace, request_of):
    Begun(workspace).add(request_of(on_loss="wait"), datetime.now(UTC))

    assert "it gets no further attempt here" in flaremesh("deny", "run-1", workspace).stdout
    with pytest.raises(Refused, match="a person at this site denied it"):
        Begun(workspace).attempt(request_of(on_loss="wait"), datetime.now(UTC))


def test_verify_names_the_line_that_was_changed(flaremesh, workspace):
    for run in ("one", "two"):
        AuditLog(workspace).note("refused", run=run)
    good = flaremesh("audit", "verify", workspace)
    assert (good.returncode, good.stdout[:7]) == (0, "2 lines")

    log = workspace / "gate/audit.jsonl"
    log.write_text(log.read_text().replace("one", "own"))

    bad = flaremesh("audit", "verify", workspace)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "line 1 of audit.jsonl: it is changed" in bad.stderr


def test_a_folder_that_is_no_workspace_is_named(flaremesh, tmp_path):
    ended = flaremesh("pending", tmp_path)

    assert ended.returncode == 2
    assert "is no site's workspace: it has no kit" in ended.stderr


def test_a_kit_that_runs_elsewhere_is_not_said_to_have_nothing_that_waits(flaremesh, workspace):
    ended = flaremesh("pending", workspace)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "no site has started in" in ended.stderr
    assert "--site" in ended.stderr


def test_a_site_alone_has_the_commands_without_the_libraries_of_the_others(workspace):
    for run in ("one", "two"):
        AuditLog(workspace).note("refused", run=run)
    alone = "import sys; sys.modules['typer'] = None; from flaremesh.__main__ import main; main()"

    def call(*arguments):
        command = [sys.executable, "-c", alone, *arguments]
        environment = os.environ | {"FLAREMESH_WORKSPACE": str(workspace)}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert call("pending").stdout == "no run waits for approval\n"
    assert call("audit", "verify").stdout.startswith("2 lines")
    assert "no run 'x' waits" in call("approve", "x").stderr


def test_a_policy_with_mistakes_refuses_every_run_and_says_where_they_are_named(
    workspace, request_of, caplog
):
    policy.path_of(workspace).write_text("aproval: required")

    with pytest.raises(Refused, match=r"^policy: .* runs nothing; its log names them"):
        check(workspace, request_of())

    assert "line 1: aproval: there is no such field; did you mean approval?" in caplog.text


def test_a_log_of_which_nothing_can_be_read_is_not_shown_as_an_empty_one(flaremesh, workspace):
    AuditLog(workspace).note("started", version="1")
    (workspace / "gate/audit.jsonl").write_text("no line of a log\n")

    assert "1 further lines cannot be read" in flaremesh("audit", "show", workspace).stdout
