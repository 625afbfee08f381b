"""The server reads and changes nothing of what it relays, and speaks for nobody."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from direct_mesh import Proxy, exchange
from hostile_server import Server, hasten_all
from streams import Post
from test_hostile import credentials_of

from flaremesh.links import Key, LinkError, LinkRefused, PeerTimeout, Refusal, connector
from flaremesh.links.carriers.stream import Piece, PieceKind, pack
from flaremesh.links.life import Tolerance
from flaremesh.topology.links import LinkKind
from flaremesh.waiting import wait_while

PAIRS = [("a", "b"), ("b", "a")]
MARKER = b"what nobody but the neighbours may read"
TOLERANT = Tolerance(redial=60)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    hasten_all(monkeypatch)


@pytest.fixture
def servers(authority):
    """Makes servers, which are closed after the test."""
    made = []

    def make(run_id="run"):
        made.append(Server(authority, run_id))
        return made[-1]

    yield make
    for server in made:
        server.close(patience=0)


@pytest.fixture
def server(servers):
    return servers()


@pytest.fixture
def linked(server):
    """A server that relays between a and b, which go on after a loss."""
    server.pair(tolerance=TOLERANT)
    assert not any(server.open().values())
    return server


def payload(sender, k):
    return MARKER + f"{sender}{k}".encode() * 20_000 + MARKER


# what it sees


@pytest.mark.parametrize("mode", ["relay", "auto", "direct"])
def test_the_server_never_sees_what_sites_exchange(server, mode):
    server.pair(mode)
    assert not any(server.open().values())
    assert exchange(server, PAIRS, 10, payload) == []
    assert not server.saw(MARKER)
    assert (server.relayed.total() > 20 * len(payload("a", 1))) == (mode == "relay")


def test_the_server_never_sees_what_sites_exchange_when_their_direct_link_breaks(server, proxies):
    server.add("a", "b", "b", tolerance=TOLERANT, listens=False)
    proxies.append(proxy := Proxy(server.add("b", "a", "a", tolerance=TOLERANT).address))
    assert not any(server.open({"b": proxy.address}).values())
    assert exchange(server, PAIRS, 3, payload) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connector, "_DIAL_SECONDS", 0.2)
        proxy.refuse()
        proxy.cut()
        assert exchange(server, PAIRS, 5, payload, start=3) == []
    assert server.observers["a"].links["b"] is LinkKind.RELAY
    assert server.relayed.total() > 5 * len(payload("a", 1))
    assert not server.saw(MARKER)


@pytest.mark.parametrize("mode", ["relay", "auto"])
def test_without_kits_nothing_is_sealed_and_each_site_says_so_once(server, caplog, mode):
    """In NVFlare's simulator; and so the search for what the server sees finds what is there."""
    server.pair(mode, direct=False)
    assert not any(server.open().values())
    assert exchange(server, PAIRS, 3, payload) == []
    assert server.saw(MARKER)
    said = [record.getMessage() for record in caplog.records if "sealed" in record.getMessage()]
    assert [message.split()[0] for message in said] == ["a", "b"]


def test_keys_may_be_rsa_as_well(server, authority):
    server.add("a", "b", "b", mode="relay", credentials=authority.issue("a", rsa_key=True))
    server.add("b", "a", "a", mode="relay")
    assert not any(server.open().values())
    assert exchange(server, PAIRS, 3, payload) == []


# for whom it speaks


def test_a_stream_that_is_led_to_another_neighbour_is_not_taken_for_one_with_it(server):
    """What a says to b goes to c, which answers: a honest site of the mesh, and a neighbour of a."""
    server.complete(tolerance=TOLERANT)

    def mislead(post):
        if {post.sender, post.peer} == {"a", "b"}:
            return [post._replace(peer="c")] if post.sender == "a" else []
        if {post.sender, post.peer} == {"a", "c"}:
            return [post._replace(sender="b")] if post.sender == "c" else []
        return [post]

    server.meddle = mislead
    errors = server.open(timeout=2)
    assert errors["a"].peers == ["b", "c"]
    assert "b (its certificate is not accepted (c answers there))" in str(errors["a"])
    assert server.observers["a"].refusals["b", Refusal.STRANGER] >= 1


def test_a_stream_that_is_brought_in_the_name_of_another_neighbour_is_refused(server):
    """And the one that has begun it is told nothing that would end its edge."""
    server.complete(tolerance=TOLERANT)
    server.meddle = lambda post: (
        [post._replace(sender="c")] if (post.sender, post.peer) == ("a", "b") else
        [post._replace(peer="a")] if (post.sender, post.peer) == ("b", "c") else
        [] if {post.sender, post.peer} == {"b", "c"} else
        [post]
    )  # fmt: skip
    errors = server.open(timeout=3)
    assert not any(isinstance(error, LinkRefused) for error in errors.values())
    assert errors["b"].peers == ["a", "c"]
    assert server.observers["b"].refusals["c", Refusal.FORGED] >= 1


CASES = ["foreign", "expired", "misnamed", "of another site", "garbled", "a site's kit", "the server's kit"]


@pytest.mark.parametrize("case", CASES)
def test_a_server_that_answers_a_stream_itself_is_told_nothing(server, authority, foreign_authority, case):
    server.add("a", "b", "b", mode="relay")
    impostor = credentials_of(case, "b", authority, foreign_authority)
    server.add("b", "a", "a", mode="relay", credentials=impostor)
    server.links["a"].send("b", Key(0, 0, "a"), [MARKER])
    errors = server.open(timeout=1)
    assert errors["a"].peers == ["b"]
    assert "its certificate is not accepted" in str(errors["a"])
    assert {reason for _, reason in server.observers["a"].refusals} <= {
        Refusal.UNTRUSTED,
        Refusal.EXPIRED,
        Refusal.STRANGER,
    }
    assert server.observers["a"].refusals.total() >= 1
    assert not server.observers["b"].links
    with pytest.raises(PeerTimeout):
        server.links["b"].receive([Key(0, 0, "a")], 0)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("foreign", Refusal.UNTRUSTED),
        ("expired", Refusal.EXPIRED),
        ("misnamed", Refusal.FORGED),
        ("of another site", Refusal.UNTRUSTED),
        ("garbled", Refusal.UNTRUSTED),
        ("a site's kit", Refusal.UNTRUSTED),
        ("the server's kit", Refusal.UNTRUSTED),
    ],
)
def test_a_server_that_begins_a_stream_in_a_neighbours_name_is_refused_by_that_name(
    server, authority, foreign_authority, case, reason
):
    impostor = credentials_of(case, "a", authority, foreign_authority)
    server.add("a", "b", "b", mode="relay", credentials=impostor)
    server.add("b", "a", "a", mode="relay")
    server.links["a"].send("b", Key(0, 0, "a"), [b"forged"])
    errors = server.open(timeout=1)
    assert errors["b"].peers == ["a"]
    assert set(server.observers["b"].refusals) == {("a", reason)}
    with pytest.raises(PeerTimeout):
        server.links["b"].receive([Key(0, 0, "a")], 0)


def test_the_honest_neighbour_is_linked_once_the_server_lets_it(server, servers, authority):
    impostor = servers()
    impostor.add(
        "b", "a", "a", mode="relay", credentials=authority.kit("b", [ExtendedKeyUsageOID.SERVER_AUTH])
    )
    server.pair()
    impostor.meddle = lambda post: server.bring(post) or []
    answers = []

    def answer(post):
        if post.peer != "b" or len(answers) >= 5:
            return [post]
        answers.append(post)
        impostor.bring(post)
        return []

    server.meddle = answer
    assert not any(server.open().values())
    assert server.observers["a"].refusals["b", Refusal.UNTRUSTED] >= 1
    assert exchange(server, PAIRS, 3, payload) == []


@pytest.mark.parametrize("name", ["a", "m"])
def test_a_certificate_that_was_revoked_is_refused_by_name(server, authority, name):
    revoked = authority.issue(name)
    _, issuer = revoked.chain()
    server.add(name, "b", "b", mode="relay", credentials=revoked)
    of_b = authority.issue("b", revoked=[str(issuer.serial_number)])
    server.add("b", name, name, mode="relay", credentials=of_b)
    error = server.open(timeout=1)["b"]
    assert error.peers == [name]
    assert set(server.observers["b"].refusals) == {(name, Refusal.REVOKED)}


def test_a_certificate_that_was_replaced_is_refused_once_the_new_one_was_seen(server, authority):
    new, of_b = authority.issue("a", since=-1), authority.issue("b")
    assert of_b.identify(new.chain()) == "a"  # as on another link
    server.add("a", "b", "b", mode="relay", credentials=authority.issue("a", since=-60))
    server.add("b", "a", "a", mode="relay", credentials=of_b)
    errors = server.open(timeout=1)
    assert isinstance(errors["a"], LinkRefused)
    assert "it refuses this site: outdated" in str(errors["a"])
    assert set(server.observers["b"].refusals) == {("a", Refusal.OUTDATED)}


# what it has recorded


@pytest.mark.parametrize("run_id", ["another run", "run"])
def test_what_was_recorded_in_another_process_counts_in_no_other(linked, servers, authority, run_id):
    """Also where the server gives a run the name of an earlier one."""
    assert exchange(linked, PAIRS, 3, payload) == []
    later = servers(run_id)
    later.pair(tolerance=TOLERANT)
    for post in list(linked.seen):
        later.bring(post)
    assert not any(later.open().values())
    assert exchange(later, PAIRS, 3, payload) == []
    for post in list(linked.seen):
        later.bring(post)
    assert exchange(later, PAIRS, 3, payload, start=3) == []
    for name, other in PAIRS:
        assert {peer for peer, _ in later.observers[name].refusals} <= {other}
        assert later.observers[name].received_bytes[other] == 6 * len(payload(name, 1))


def test_a_site_that_is_dead_is_not_kept_alive_by_what_the_server_has_recorded(server):
    """It hides the end of b, and repeats all that b ever sent, signs of life among it."""
    server.pair(tolerance=Tolerance(redial=1))
    assert not any(server.open().values())
    assert exchange(server, PAIRS, 3, payload) == []
    signs = len(server.seen) + 20
    assert not wait_while(lambda: len(server.seen) < signs, 15, 0.005)
    recorded = [post for post in server.seen if post.sender == "b"]
    server.meddle = lambda post: [] if post.sender == "b" else [post]
    server.links.pop("b").close(patience=0)
    over = threading.Event()

    def replay():
        while not over.is_set():
            for post in recorded:
                server.bring(post)

    with ThreadPoolExecutor(1) as pool:
        replaying = pool.submit(replay)
        started = time.monotonic()
        try:
            with pytest.raises(LinkError, match=r"\bb\b"):
                server.links["a"].receive([Key(3, 0, "b")], 1)
        finally:
            over.set()
        replaying.result()
    assert time.monotonic() - started < 15


def test_a_site_of_another_run_is_refused(server, servers, authority):
    other = servers("another run")
    other.add("a", "b", "b", mode="relay")
    server.add("b", "a", "a", mode="relay")
    other.meddle = lambda post: server.bring(post) or []
    server.meddle = lambda post: other.bring(post) or []
    error = other.open(timeout=5)["a"]
    assert isinstance(error, LinkRefused)
    assert "(run)" in str(error)


def test_a_stranger_is_not_even_listened_to(linked):
    linked.bring(Post("z", "b", pack(Piece(PieceKind.PIECE, bytes(8), 0, 0, b"x"))))
    assert linked.observers["b"].refusals == {("z", Refusal.STRANGER): 1}
