import json
import math
from datetime import datetime

import pytest

from flaremesh.cli.status import show
from flaremesh.deploy.targets.base import Participant
from flaremesh.deploy.watch.status import ActiveRun, MeshStatus
from flaremesh.p2p.progress import SiteProgress

SERVER = Participant("server", running=True, ready=True, place="pod", metrics=None)
ELSEWHERE = {"running": False, "ready": False, "place": "", "metrics": None, "elsewhere": True}


@pytest.mark.parametrize(("registered", "ready"), [(["bonn"], True), ([], False), (None, False)])
def test_a_site_elsewhere_is_ready_when_the_server_knows_it(registered, ready):
    assert MeshStatus([SERVER, Participant("bonn", **ELSEWHERE)], registered, []).ready == ready


@pytest.mark.parametrize(("registered", "ready"), [(["bonn"], True), (None, False)])
def test_a_server_elsewhere_is_ready_when_it_answers(registered, ready):
    bonn = Participant("bonn", running=True, ready=True, place="pod", metrics=None)
    assert MeshStatus([Participant("server", **ELSEWHERE), bonn], registered, []).ready == ready


def test_a_participant_that_must_be_here_and_is_not_keeps_a_mesh_from_being_ready():
    bonn = Participant("bonn", running=False, ready=False, place="", metrics=None)
    assert not MeshStatus([SERVER, bonn], ["bonn"], []).ready


def test_a_run_that_diverges_is_told_in_json_that_any_reader_takes(capsys):
    diverged = SiteProgress(3, consensus_distance=math.inf, metrics={"loss": math.nan})
    show(
        MeshStatus([SERVER], ["bonn"], [ActiveRun("run-1", "mine", "running", {"bonn": diverged})]),
        as_json=True,
    )
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    (run,) = document["runs"]
    assert run["sites"]["bonn"]["consensus_distance"] is None
    assert run["sites"]["bonn"]["metrics"] == {"loss": None}


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_who_is_missing_from_a_run_is_named_and_since_when(capsys, monkeypatch, state):
    monkeypatch.setenv("COLUMNS", "80")
    since = datetime(2026, 11, 30, 14, 3, 5).timestamp()
    show(
        MeshStatus([SERVER], ["ulm"], [ActiveRun("run-1", "mine", state, {}, {"bonn": since})]), as_json=False
    )
    assert "bonn has been missing from run run-1 since 2026-11-30 14:03:05\n" in capsys.readouterr().out


def test_who_is_missing_is_told_as_json_as_unix_time(capsys):
    show(MeshStatus([SERVER], [], [ActiveRun("run-1", "mine", "waiting", {}, {"bonn": 7.0})]), as_json=True)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["missing"] == {"bonn": 7.0}
