import pytest

from flaremesh.deploy.targets.base import Participant
from flaremesh.deploy.watch.status import MeshStatus

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
