"""The server reads and changes nothing of what it relays, and speaks for nobody."""

import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from direct_mesh import Proxy, exchange
from hostile_server import Server, with_piece
from streams import Post
from test_hostile import credentials_of

from flaremesh.links import Key, LinkError, LinkRefused, PeerTimeout, Refusal, connector, life
from flaremesh.links.carriers import stream as streams
from flaremesh.links.carriers.stream import Piece, PieceKind, pack
from flaremesh.links.life import Tolerance
from flaremesh.topology.links import LinkKind
from flaremesh.waiting import wait_while

PAIRS = [("a", "b"), ("b", "a")]
MARKER = b"what nobody but the neighbours may read"
TOLERANT = Tolerance(redial=60)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(streams, "_ACK_SECONDS", 0.01)
    monkeypatch.setattr(streams, "_RESEND_SECONDS", 0.05)
    monkeypatch.setattr(streams, "_RESEND_SECONDS_MAX", 0.2)
    monkeypatch.setattr(streams, "_GONE_SECONDS", 2.0)
    monkeypatch.setattr(life, "SIGN_SECONDS", 0.1)
    monkeypatch.setattr(life, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(life, "_LEAST_SECONDS", 0.025)
    monkeypatch.setattr(connector, "_ATTEMPT_SECONDS", 1.0)


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


# what it changes


def changed(post, rng):
    data = bytearray(post.data)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return [post._replace(data=bytes(data))]


def changed_within(post, rng):
    """A bit of what TLS protects."""
    content = bytearray(post.piece.payload)
    if not content:
        return [post]
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return [with_piece(post, payload=bytes(content))]


def truncated(post, rng):
    return [post._replace(data=post.data[: rng.randrange(len(post.data))])]


def injected(post, rng):
    """Bytes of its own before those of the sender."""
    if post.piece.kind is not PieceKind.PIECE:
        return [post]
    return [with_piece(post, payload=rng.randbytes(40) + bytes(post.piece.payload)), post]


def ended(post, rng):
    return [with_piece(post, kind=PieceKind.END, payload=b""), post]


def forgotten(post, rng):
    return [with_piece(post, kind=PieceKind.GONE, payload=b""), post]


def mirrored(post, rng):
    """What came from one end, to that end."""
    return [post, Post(post.peer, post.sender, post.data)]


def acknowledged(post, rng):
    """As if all had arrived that never did."""
    return [with_piece(post, acknowledged=2**64 - 1)]


MEDDLING = {
    "changes": changed,
    "changes what is sealed": changed_within,
    "drops": lambda post, rng: [],
    "repeats": lambda post, rng: [post] * 3,
    "truncates": truncated,
    "injects": injected,
    "ends": ended,
    "forgets": forgotten,
    "mirrors": mirrored,
    "acknowledges": acknowledged,
}


class Meddler:
    """Does something to every third post, ``times`` times altogether."""

    def __init__(self, how, times=25):
        self._how, self.left, self._rng, self._count = how, times, random.Random(7), 0

    def __call__(self, post):
        self._count += 1
        if self.left and self._count % 3 == 0:
            self.left -= 1
            return self._how(post, self._rng)
        return [post]


@pytest.mark.parametrize("how", MEDDLING)
def test_a_server_that_meddles_breaks_connections_and_no_message(linked, how):
    linked.meddle = meddler = Meddler(MEDDLING[how])
    iterations = itertools.count()
    while meddler.left:
        assert exchange(linked, PAIRS, 1, payload, start=next(iterations)) == []
    assert exchange(linked, PAIRS, 3, payload, start=next(iterations)) == []
    for name in "ab":
        assert set(linked.observers[name].links.values()) == {LinkKind.RELAY}


def test_a_server_that_reorders_all_pieces_loses_nothing(linked):
    late = []

    def meddle(post):
        late.append(post)
        if len(late) < 3:
            return []
        posts, late[:] = late[::-1], []
        return posts

    linked.meddle = meddle
    assert exchange(linked, PAIRS, 10, payload) == []


@pytest.mark.parametrize("how", ["changes what is sealed", "truncates", "injects", "forgets"])
def test_a_server_that_meddles_with_greetings_only_delays(server, how):
    server.pair(tolerance=TOLERANT)
    server.meddle = meddler = Meddler(MEDDLING[how], times=6)
    assert not any(server.open(timeout=30).values())
    while meddler.left:
        assert exchange(server, PAIRS, 1, payload, start=100 + meddler.left) == []
    assert exchange(server, PAIRS, 3, payload) == []


def test_a_server_that_swaps_the_pieces_of_two_pairs_delivers_none_of_them(server):
    complete(server)
    assert not any(server.open().values())
    pairs = [(x, y) for x in "abc" for y in "abc" if x != y]
    assert exchange(server, pairs, 1, payload) == []
    waiting, swapped = {}, []

    def meddle(post):
        """What a says to b is told to c, in the stream from a to c, and the other way round."""
        if post.sender != "a" or post.piece.kind is not PieceKind.PIECE or len(swapped) >= 10:
            return [post]
        waiting[post.peer] = post
        if len(waiting) < 2:
            return []
        to_b, to_c = waiting.pop("b"), waiting.pop("c")
        swapped.append(post)
        return [with_piece(to_b, payload=to_c.piece.payload), with_piece(to_c, payload=to_b.piece.payload)]

    server.meddle = meddle
    assert exchange(server, pairs, 5, payload, start=1) == []
    assert swapped


def complete(server):
    for name in "abc":
        others = [other for other in "abc" if other != name]
        server.add(name, others, others, mode="relay", tolerance=TOLERANT)


# for whom it speaks


def test_a_stream_that_is_led_to_another_neighbour_is_not_taken_for_one_with_it(server):
    """What a says to b goes to c, which answers: a honest site of the mesh, and a neighbour of a."""
    complete(server)

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
    complete(server)
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
