"""What the in-process link does beyond the contract of all links."""

import pytest

from flaremesh.links import Key, LinkError, PeerTimeout
from flaremesh.links.inprocess import InProcessLink, inboxes


@pytest.fixture
def links():
    boxes = inboxes(["bonn", "kiel"])
    return {site: InProcessLink(site, boxes) for site in boxes}


def test_a_message_arrives_as_one_payload_at_its_peer_only(links):
    key = Key(0, 0, "bonn")
    links["bonn"].send("kiel", key, [b"one, ", b"two"])
    assert links["kiel"].receive([key], timeout=0) == {key: b"one, two"}
    with pytest.raises(PeerTimeout):
        links["bonn"].receive([key], timeout=0)


def test_an_unknown_peer_is_refused(links):
    with pytest.raises(LinkError, match="bonn has no edge to aachen"):
        links["bonn"].send("aachen", Key(0, 0, "bonn"), [b""])
