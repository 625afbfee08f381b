"""Links of sites that nobody can dial: they meet at a point that understands nothing of what passes."""

import os
import socket
import threading
import time

import pytest
from direct_mesh import Proxy, exchange, in_parallel
from meeting_place import comes_true, knocked

from flaremesh.links import EdgeLost, Key, LinkError, LinkKind, PeerTimeout, Refusal, connector
from flaremesh.links.carriers.met import Meeting
from flaremesh.meeting import knock, point
from flaremesh.meeting.knock import await_go
from flaremesh.meeting.refusal import Reason

UNRELAYED = (LinkKind.DIRECT, LinkKind.MET)
BOTH = [("a", "b"), ("b", "a")]


def numbered(length):
    return lambda sender, k: f"{sender}{k:06d}".encode() * (length // 7)


def meet(sites, place, *, carriers=UNRELAYED, listens="", meetings=None, **options):
    """Links of a and b that nobody can dial but those that listen."""
    for name, other in BOTH:
        meeting = (meetings or {}).get(name) or place.meeting(name)
        sites.add(
            name, [other], [other], carriers=carriers, listens=name in listens, meeting=meeting, **options
        )


@pytest.fixture
def pair(place, sites):
    """Sites a and b, met, without anything else to fall back to."""
    meet(sites, place)
    assert not any(sites.open().values())
    return sites


@pytest.fixture
def soon(monkeypatch):
    """The next carrier is tried, and a better one is tried again, after moments."""
    for name, seconds in (("DIAL", 0.5), ("ATTEMPT", 0.4), ("RETURN", 0.2)):
        monkeypatch.setattr(connector, f"_{name}_SECONDS", seconds)
    monkeypatch.setattr(connector, "_RETURN_SECONDS_MAX", 0.2)


def kinds(sites):
    return {name: set(observer.links.values()) for name, observer in sites.observers.items()}


BOTH_MET = {"a": {LinkKind.MET}, "b": {LinkKind.MET}}


@pytest.mark.parametrize("length", [7, 70_000, 7_000_000])
def test_two_sites_that_nobody_can_dial_exchange_through_a_meeting_point(place, pair, length):
    assert exchange(pair, BOTH, 20, numbered(length)) == []
    assert kinds(pair) == BOTH_MET
    assert sum(pair.relayed.values()) == 0
    assert place.figures.passed_bytes > 40 * length


def test_a_ring_of_six_exchanges(place, sites):
    names = "abcdef"
    for before, name, after in zip(names[-1] + names[:-1], names, names[1:] + names[0], strict=True):
        meeting = place.meeting(name)
        sites.add(name, [before, after], [before, after], carriers=UNRELAYED, listens=False, meeting=meeting)
    assert not any(sites.open().values())
    pairs = [pair for x, y in zip(names, names[1:] + names[0], strict=True) for pair in ((x, y), (y, x))]
    assert exchange(sites, pairs, 50, numbered(700)) == []
    assert place.shows(lambda figures: figures.joined == 6)


@pytest.mark.parametrize("first", ["a", "b"])
def test_whichever_end_comes_first_waits_for_the_other_one(place, sites, first):
    meet(sites, place)
    opening = {name: lambda link=link: link.open({}, 20) for name, link in sites.links.items()}
    waiting = threading.Thread(target=opening[first])
    waiting.start()
    assert place.shows(lambda figures: figures.waiting == 1)
    second = "b" if first == "a" else "a"
    assert not any(in_parallel({second: opening[second]}).values())
    waiting.join()
    assert exchange(sites, BOTH, 5, numbered(700)) == []


def test_what_passes_is_sealed(place, proxies, sites):
    listener = _Listener(place.address)
    proxies.append(listener)
    meet(sites, place, meetings={name: place.meeting(name, listener.address) for name in "ab"})
    assert not any(sites.open().values())
    marker = os.urandom(32)
    assert exchange(sites, BOTH, 10, lambda sender, k: marker * 1000) == []
    assert len(listener.seen) > 20 * 32_000
    assert marker not in listener.seen


def test_who_can_be_dialled_is_dialled_and_nobody_waits_at_the_meeting_point(place, sites):
    meet(sites, place, listens="ab")
    assert not any(sites.open().values())
    assert exchange(sites, BOTH, 5, numbered(700)) == []
    assert kinds(sites) == {"a": {LinkKind.DIRECT}, "b": {LinkKind.DIRECT}}
    assert place.shows(lambda figures: figures.waiting == figures.joined == figures.knocking == 0)


def test_a_direct_link_that_is_lost_goes_on_through_the_meeting_point_and_comes_back(
    place, proxies, sites, soon
):
    meet(sites, place, listens="b")
    proxy = Proxy(sites.links["b"].address)
    proxies.append(proxy)
    assert not any(sites.open({"b": proxy.address}).values())
    assert kinds(sites) == {"a": {LinkKind.DIRECT}, "b": {LinkKind.DIRECT}}
    proxy.passing.clear()
    proxy.cut()
    assert exchange(sites, BOTH, 5, numbered(70_000)) == []
    assert kinds(sites) == BOTH_MET
    proxy.passing.set()
    a = sites.observers["a"]
    assert a.wait_for(lambda: a.links["b"] is LinkKind.DIRECT)
    assert exchange(sites, BOTH, 5, numbered(70_000), start=5) == []
    assert place.shows(lambda figures: figures.waiting == figures.joined == 0)


def test_a_meeting_point_that_is_killed_costs_nothing_once_it_is_back(place, pair):
    assert exchange(pair, BOTH, 5, numbered(70_000)) == []
    for start in (5, 10, 15):
        place.close()
        for name, other in BOTH:  # while it is away
            pair.links[name].send(other, Key(start, 0, name), [numbered(70_000)(name, start)])
        place.open()
        for name, other in BOTH:
            key = Key(start, 0, other)
            assert bytes(pair.links[name].receive([key], 20)[key]) == numbered(70_000)(other, start)
        assert exchange(pair, BOTH, 4, numbered(70_000), start=start + 1) == []
    assert kinds(pair) == BOTH_MET
    assert pair.observers["b"].received_bytes["a"] == 70_000 * 20


def test_a_meeting_point_that_is_killed_costs_nothing_where_there_is_a_relay(place, sites, soon):
    meet(sites, place, carriers=LinkKind)
    assert not any(sites.open().values())
    assert kinds(sites) == BOTH_MET
    place.close()
    assert exchange(sites, BOTH, 5, numbered(70_000)) == []
    assert kinds(sites) == {"a": {LinkKind.RELAY}, "b": {LinkKind.RELAY}}
    place.open()
    for name, other in BOTH:
        observer = sites.observers[name]
        assert observer.wait_for(lambda o=observer, other=other: o.links[other] is LinkKind.MET)
    relayed = sum(sites.relayed.values())
    assert exchange(sites, BOTH, 5, numbered(70_000), start=5) == []
    assert sum(sites.relayed.values()) - relayed < 70_000
    assert sites.observers["b"].received_bytes["a"] == 70_000 * 10


def test_who_waits_comes_again_when_it_was_sent_away(place, sites, monkeypatch):
    monkeypatch.setattr(point, "WAITING_SECONDS", 0.2)
    b = sites.add("b", ["a"], ["a"], carriers=UNRELAYED, listens=False, meeting=place.meeting("b"))
    opening = threading.Thread(target=lambda: b.open({}, 20))
    opening.start()
    assert place.shows(lambda figures: figures.refused[Reason.ALONE] >= 2)
    a = sites.add("a", ["b"], ["b"], carriers=UNRELAYED, listens=False, meeting=place.meeting("a"))
    a.open({}, 20)
    opening.join()
    assert exchange(sites, BOTH, 5, numbered(700)) == []


def test_a_pair_without_a_ticket_is_told_so(place, sites):
    nowhere = Meeting(place.address, lambda _: None)
    meet(sites, place, meetings={"a": nowhere, "b": nowhere})
    for failure in sites.open(timeout=1).values():
        assert isinstance(failure, LinkError)
        assert "it has no ticket for the meeting point" in str(failure)
    assert not place.figures.refused


def test_an_edge_that_is_lost_says_who_has_not_come(place, pair, soon):
    pair.links.pop("b").close(patience=0)
    with pytest.raises(EdgeLost, match=r"a lost its met link to b .*: b has not come to the meeting"):
        pair.links["a"].receive([Key(0, 0, "b")], 20)


def test_the_reason_of_a_refusal_is_told(place, sites, caplog):
    caplog.set_level("INFO")
    meet(sites, place, meetings={n: Meeting(place.address, lambda _: place.ticket("c", "d")) for n in "ab"})
    sites.open(timeout=1)
    assert place.shows(lambda figures: figures.refused[Reason.STRANGER] >= 2)
    assert comes_true(lambda: "refuses this site (stranger)" in caplog.text)


# who is not what he should be


@pytest.mark.parametrize("says", [b"garbage" * 100, b"", b"\x16\x03\x01\x40\x00"])
def test_a_neighbour_that_talks_nonsense_after_it_was_met_disturbs_nobody(place, pair, says):
    """It has a's certificates and ticket, and is no TLS client of a."""
    before = place.figures.joinings
    with knocked(place.address, pair.authority.issue("a"), place.ticket("a", "b")) as stream:
        assert await_go(stream, 10)
        stream.sendall(says)
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(4096):
            pass
    b = pair.observers["b"]
    assert b.wait_for(lambda: ("a", Refusal.HANDSHAKE) in b.refusals)
    assert place.figures.joinings == before + 1
    assert exchange(pair, BOTH, 5, numbered(700)) == []
    assert kinds(pair) == BOTH_MET


# Python's ssl leaves a socket open whose peer is gone before it is wrapped, as the impostor's may be
left_by_ssl = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@left_by_ssl
def test_a_meeting_point_cannot_put_anybody_in_the_place_of_a_neighbour(place, proxies, sites):
    """It joins a with c, whose certificates are of the mesh, and who claims to be b's process."""
    c = sites.authority.issue("c")
    impostor = _Impostor(c)
    proxies.append(impostor)
    meet(sites, place, meetings={"a": place.meeting("a", impostor.address)})
    failure = sites.open(timeout=2)["a"]
    assert isinstance(failure, PeerTimeout)
    assert "c answers there" in str(failure)
    assert ("b", Refusal.STRANGER) in sites.observers["a"].refusals


@left_by_ssl
@pytest.mark.parametrize("says", [None, b"", b"garbage" * 100])
def test_a_meeting_point_that_joins_a_pair_with_others_does_not_end_it_where_there_is_a_relay(
    place, proxies, sites, soon, says
):
    impostor = _Impostor(sites.authority.issue("c") if says is None else None, says or b"")
    proxies.append(impostor)
    meet(
        sites,
        place,
        carriers=LinkKind,
        meetings={name: place.meeting(name, impostor.address) for name in "ab"},
    )
    assert not any(sites.open().values())
    assert exchange(sites, BOTH, 5, numbered(700)) == []
    assert kinds(sites) == {"a": {LinkKind.RELAY}, "b": {LinkKind.RELAY}}


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"R" + b"?" * 15, b"", b"C" + bytes(5)]
)
def test_what_is_no_meeting_point_carries_nothing_and_the_relay_does(
    place, proxies, sites, answer, monkeypatch
):
    monkeypatch.setattr(connector, "_DIAL_SECONDS", 0.2)
    other = _Answering(answer)
    proxies.append(other)
    meet(
        sites, place, carriers=LinkKind, meetings={name: place.meeting(name, other.address) for name in "ab"}
    )
    assert not any(sites.open().values())
    assert exchange(sites, BOTH, 3, numbered(700)) == []
    assert kinds(sites) == {"a": {LinkKind.RELAY}, "b": {LinkKind.RELAY}}


def test_a_meeting_point_at_which_nobody_is_met_cannot_keep_a_site_busy(place, proxies, sites):
    """It says at once that the other end is there, again and again."""
    impostor = _Impostor()
    proxies.append(impostor)
    b = sites.add(
        "b", ["a"], ["a"], carriers=UNRELAYED, listens=False, meeting=place.meeting("b", impostor.address)
    )
    started = time.monotonic()
    opening = threading.Thread(target=lambda: in_parallel({"b": lambda: b.open({}, 2)}))
    opening.start()
    assert comes_true(lambda: impostor.conversations >= 5)
    # half of each pause at least, which doubles
    assert time.monotonic() - started > (0.05 + 0.1 + 0.2) / 2
    opening.join()


class _Answering:
    """A server that says one thing to all."""

    def __init__(self, answer=b""):
        self._answer, self.conversations = answer, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.conversations += 1
            with connection:
                self.converse(connection)

    def converse(self, connection):
        connection.settimeout(5)
        try:
            connection.recv(4096)
            connection.sendall(self._answer)
        except OSError:  # it has hung up
            pass


class _Impostor(_Answering):
    """A meeting point that says to all that the other end is there, and is that itself, or says one thing."""

    def __init__(self, credentials=None, answer=b""):
        self._credentials = credentials
        super().__init__(answer)

    def converse(self, connection):
        connection.settimeout(5)
        try:
            self._hear(connection, knock.read_knock)
            connection.sendall(knock.challenge(bytes(knock.NONCE_BYTES)))
            self._hear(connection, knock.read_proof)
            connection.sendall(knock.go())
            if self._credentials is not None:
                with self._credentials.listening().wrap_socket(connection, server_side=True) as secure:
                    secure.recv(100)
            connection.sendall(self._answer)
        except OSError:  # a has seen enough
            pass

    def _hear(self, connection, read):
        data = b""
        while read(data) is None:
            piece = connection.recv(1 << 16)
            if not piece:
                raise ConnectionError
            data += piece


class _Listener(Proxy):
    """Passes on, and keeps what it has seen."""

    def __init__(self, address):
        self.seen = bytearray()
        super().__init__(address)

    def _pump(self, source, target):
        super()._pump(_Seen(source, self.seen), target)


class _Seen:
    """A socket whose bytes are kept, too."""

    def __init__(self, source, seen):
        self._source, self._seen = source, seen

    def recv(self, count):
        data = self._source.recv(count)
        self._seen += data
        return data

    def close(self):
        self._source.close()
