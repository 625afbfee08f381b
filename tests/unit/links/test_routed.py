"""How a link chooses among carriers, shown on carriers that a newcomer might write: one class, one list."""

import pytest
from direct_mesh import edges_of

from flaremesh.links import Key, LinkError, LinkKind, PeerTimeout, RunAborted
from flaremesh.links.carrier import Carrier, Unable
from flaremesh.links.inbox import Inbox
from flaremesh.links.mesh_link import MeshLink


class Handover(Carrier):
    """Hands messages to the inbox of whoever is called so, and keeps them until told that they arrived."""

    def __init__(self, kind, edges, inboxes, unable=()):
        self.kind, self._edges, self._inboxes, self._unable = kind, edges, inboxes, dict(unable)
        self.under_way, self.gone, self.patience = [], None, None

    def open(self, addresses, lost, timeout):
        self._lost = lost
        return self._unable

    def send(self, peer, message):
        if self.gone is None:
            self.under_way.append(message)
            self._inboxes[peer].put(message.key, b"".join(message.buffers))
        return self.gone

    def lose(self, peer, cause):
        """Nothing that was sent is known to have arrived."""
        self.gone = cause
        self._lost(peer, cause, self.under_way)

    def condition(self, peer):
        return f"{self.kind} knows {peer}"

    def close(self, *, patience=5.0):
        self.patience = patience


@pytest.fixture
def make():
    """A link of site a to site b over carriers of the given kinds, and these; some cannot carry to b."""
    made = []

    def make(*kinds, unable=()):
        a, b = edges_of("a", "b", "b"), edges_of("b", "a", "a")
        reasons = dict(unable)
        carriers = [
            Handover(kind, a, {"b": b.inbox}, {"b": reasons[kind]} if kind in reasons else {})
            for kind in kinds
        ]
        made.append(MeshLink(a, carriers))
        return made[-1], carriers, a.observer, b.inbox

    yield make
    for link in made:
        link.close()


def send(link, iteration):
    link.send("b", Key(iteration, 0, "a"), [b"%d" % iteration])


def test_an_edge_goes_by_the_first_carrier_that_can(make):
    link, (direct, relay), observer, _ = make(LinkKind.DIRECT, LinkKind.RELAY)
    link.open({}, 1)
    send(link, 0)
    assert [len(direct.under_way), len(relay.under_way)] == [1, 0]
    assert observer.links == observer.wanted == {"b": LinkKind.DIRECT}


@pytest.mark.parametrize(("by_design", "wanted"), [(True, LinkKind.RELAY), (False, LinkKind.DIRECT)])
def test_who_cannot_be_carried_to_goes_by_the_next_and_a_fault_is_told_from_a_choice(make, by_design, wanted):
    unable = {LinkKind.DIRECT: Unable("no way", by_design)}
    link, (direct, relay), observer, _ = make(LinkKind.DIRECT, LinkKind.RELAY, unable=unable)
    link.open({}, 1)
    send(link, 0)
    assert [len(direct.under_way), len(relay.under_way)] == [0, 1]
    assert observer.links == {"b": LinkKind.RELAY}
    assert observer.wanted == {"b": wanted}


def test_what_a_lost_carrier_did_not_deliver_arrives_once_by_the_next(make):
    link, (direct, _), observer, inbox = make(LinkKind.DIRECT, LinkKind.RELAY)
    link.open({}, 1)
    keys = [Key(k, 0, "a") for k in range(6)]
    for k in range(3):
        send(link, k)
    assert inbox.take(keys[:1], 0) == {keys[0]: b"0"}
    direct.lose("b", "it is gone")
    for k in range(3, 6):
        send(link, k)
    assert inbox.take(keys[1:], 0) == {key: b"%d" % key.iteration for key in keys[1:]}
    with pytest.raises(PeerTimeout):
        inbox.take(keys[:1], 0)
    assert observer.links == {"b": LinkKind.RELAY}
    assert observer.wanted == {"b": LinkKind.DIRECT}


def test_an_edge_that_a_better_carrier_has_again_goes_by_that(make):
    link, (direct, relay), observer, _ = make(LinkKind.DIRECT, LinkKind.RELAY)
    link.open({}, 1)
    direct.lose("b", "it is gone")
    send(link, 0)
    direct.gone = None
    send(link, 1)
    assert [len(direct.under_way), len(relay.under_way)] == [1, 1]
    assert observer.links == observer.wanted == {"b": LinkKind.DIRECT}


def test_a_peer_that_no_carrier_reaches_is_named_with_the_cause(make):
    link, _, _, _ = make(LinkKind.DIRECT, unable={LinkKind.DIRECT: Unable("it has no link address", True)})
    with pytest.raises(LinkError, match="a has no direct link to b: it has no link address"):
        link.open({}, 1)


def test_a_site_without_any_carrier_says_so(make):
    link, _, _, _ = make()
    with pytest.raises(LinkError, match="a has no direct link to b: a makes none"):
        link.open({}, 1)


def test_the_last_carrier_that_is_lost_ends_sending_and_receiving(make):
    link, (direct,), _, _ = make(LinkKind.DIRECT)
    link.open({}, 1)
    direct.lose("b", "it is gone")
    for use in (lambda: send(link, 0), lambda: link.receive([Key(0, 0, "b")], 20)):
        with pytest.raises(LinkError, match=r"a lost its direct link to b .*: it is gone"):
            use()


def test_who_is_waited_for_in_vain_is_described_by_the_best_carrier_that_knows_it(make):
    link, _, _, _ = make(LinkKind.DIRECT, LinkKind.RELAY)
    link.open({}, 1)
    with pytest.raises(PeerTimeout, match=r"b \(direct knows b\)"):
        link.receive([Key(0, 0, "b")], 0)


@pytest.mark.parametrize("patience", [0, 3])
def test_a_carrier_that_may_just_have_taken_over_has_time_to_deliver_unless_nobody_has(make, patience):
    link, (direct, relay), _, _ = make(LinkKind.DIRECT, LinkKind.RELAY)
    link.open({}, 1)
    link.close(patience=patience)
    assert direct.patience == pytest.approx(patience, abs=0.5)
    assert (relay.patience >= 5) == (patience > 0)


def test_a_link_that_an_abort_has_closed_says_that_the_run_was_aborted():
    link = MeshLink(edges_of("a", "b", "b", inbox=Inbox(lambda: True)), [])
    link.close(patience=0)
    for use in (lambda: send(link, 0), lambda: link.receive([Key(0, 0, "b")], 20)):
        with pytest.raises(RunAborted):
            use()
