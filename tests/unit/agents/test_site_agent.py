"""For whom a site's agent waits."""

import json

import pytest

from flaremesh.p2p.agents.probe import RelayProbe
from flaremesh.p2p.agents.site import SiteAgent
from flaremesh.p2p.charter import Charter, Peer
from flaremesh.topology.links import LinkKind


@pytest.fixture
def ulm(authority):
    """It has edges with three sites, of which that with dresden may not be relayed."""
    peers = {
        "bonn": Peer(True, True, (LinkKind.DIRECT, LinkKind.RELAY)),
        "dresden": Peer(True, True, (LinkKind.DIRECT, LinkKind.MET)),
        "weimar": Peer(True, True, (LinkKind.RELAY,)),
    }
    agent = SiteAgent()
    agent.participant = "ulm"
    agent._place = None
    agent._charter = Charter("mesh", "ulm", peers)
    agent._relay = RelayProbe("ulm", lambda peer, data: None, authority.issue("ulm"))
    return agent


def test_an_agent_waits_behind_the_relay_for_a_neighbour_that_leads(ulm):
    assert json.loads(ulm._invite("bonn", b"relayed"))["waits"]


@pytest.mark.parametrize("who", ["dresden", "weimar", "aachen", "ulm", "server", ""])
def test_an_agent_waits_behind_the_relay_for_nobody_else(ulm, who):
    answer = json.loads(ulm._invite(who, b"relayed"))
    assert answer["wrong"]
    assert "its kit knows no such edge" in answer["why"]
    assert not ulm._relay._expected
