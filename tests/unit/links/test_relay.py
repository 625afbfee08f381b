"""The relay link over a transport that loses, repeats and reorders."""

import queue
import random
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from direct_mesh import edges_of, message

from flaremesh import links
from flaremesh.links import Key, LinkError, PeerBehind, PeerTimeout, relay
from flaremesh.links.frame import Frame, Kind, pack, run_digest
from flaremesh.links.relay import RelayCarrier
from flaremesh.links.mesh_link import MeshLink


class Counters:
    def __init__(self):
        self.sent_bytes, self.received_bytes, self.refusals = Counter(), Counter(), Counter()

    def sent(self, peer, payload_bytes):
        self.sent_bytes[peer] += payload_bytes

    def received(self, peer, payload_bytes):
        self.received_bytes[peer] += payload_bytes

    def refused(self, peer, reason):
        self.refusals[peer, reason] += 1

    def waited(self, peer, seconds):
        pass

    def linked(self, peer, kind, wanted):
        pass

    def changed(self, peer, kind):
        pass


class _Transport:
    """Of one site, into a queue; tells the network how to deliver."""

    def __init__(self, queue, name):
        self._queue, self._name = queue, name

    def post(self, peer, data):
        self._queue.put((self._name, peer, data))

    def listen(self, deliver):
        self._queue.deliver[self._name] = deliver


class _Queue(queue.Queue):
    def __init__(self):
        super().__init__()
        self.deliver = {}


class Network:
    """Delivers what sites post, in a thread, with faults drawn from a seeded generator."""

    def __init__(self, lose=0.0, repeat=0.0, seed=0):
        self.links, self.counters = {}, {}
        self._lose, self._repeat, self._random = lose, repeat, random.Random(seed)
        self.queue = _Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def site(self, name, sources, targets, run_id="run", **options):
        self.counters[name] = Counters()
        edges = edges_of(name, sources, targets, run_id=run_id, observer=self.counters[name], **options)
        link = self.links[name] = MeshLink(edges, [RelayCarrier(edges, _Transport(self.queue, name))])
        return link

    def deliver(self, peer, sender, data):
        """As if the transport had brought it."""
        self.queue.deliver[peer](sender, data)

    def close(self):
        closers = [threading.Thread(target=link.close) for link in self.links.values()]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        self.queue.put(None)
        self._thread.join()

    def _run(self):
        while (item := self.queue.get()) is not None:
            sender, peer, data = item
            if self._random.random() < self._lose or peer not in self.queue.deliver:
                continue
            for _ in range(1 + (self._random.random() < self._repeat)):
                self.deliver(peer, sender, data)


@pytest.fixture
def network(request):
    network = Network(**getattr(request, "param", {}))
    yield network
    network.close()


def in_parallel(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("network", [{}, {"lose": 0.2, "repeat": 0.2, "seed": 3}], indirect=True)
def test_every_message_arrives_once_whatever_the_transport_loses_or_repeats(network):
    a, b = network.site("a", ["b"], ["b"]), network.site("b", ["a"], ["a"])
    in_parallel(lambda: a.open({}, 20), lambda: b.open({}, 20))
    for iteration in range(10):
        for link, me, peer in ((a, "a", "b"), (b, "b", "a")):
            link.send(peer, Key(iteration, 0, me), [f"{me}{iteration}".encode()])
        for link, peer in ((a, "b"), (b, "a")):
            key = Key(iteration, 0, peer)
            assert bytes(link.receive([key], 30)[key]) == f"{peer}{iteration}".encode()
    assert network.counters["b"].received_bytes["a"] == sum(len(f"a{k}") for k in range(10))


def test_a_long_message_is_cut_into_pieces_and_put_together_again(network):
    a, b = network.site("a", [], ["b"]), network.site("b", ["a"], [])
    content = random.Random(1).randbytes((9 << 20) + 5)
    a.send("b", Key(0, 0, "a"), [content[:100], content[100:]])
    assert bytes(b.receive([Key(0, 0, "a")], 10)[Key(0, 0, "a")]) == content


def test_a_directed_edge_is_acknowledged_without_data_in_the_other_direction(network):
    a, b = network.site("a", [], ["b"]), network.site("b", ["a"], [])
    in_parallel(lambda: a.open({}, 5), lambda: b.open({}, 5))


@pytest.fixture
def unanswered():
    """A link from a to b, and what it posts, to which nobody answers."""
    posted = _Queue()
    carrier = RelayCarrier(edges_of("a", targets="b", observer=Counters()), _Transport(posted, "a"))
    yield carrier, posted
    carrier.close(patience=0)


def test_a_greeting_that_nobody_heard_is_soon_repeated(unanswered):
    link, posted = unanswered
    link.send("b", message("a", 0, b"x"))
    assert posted.get(timeout=2) == posted.get(timeout=2)


def test_a_peer_that_is_slow_is_not_flooded(unanswered):
    link, posted = unanswered
    link.send("b", message("a", 0, bytes(20 << 20)))
    assert 0 < sum(len(posted.get()[2]) for _ in range(posted.qsize())) < 20 << 20


def test_what_another_carrier_left_is_taken_over_whatever_has_been_sent_meanwhile(monkeypatch, unanswered):
    monkeypatch.setattr(links.link, "MAX_UNTAKEN_MESSAGES", 3)
    link, _ = unanswered
    link.send("b", message("a", 3, b"x"))
    for iteration in range(3):
        link.send("b", message("a", iteration, b"x")._replace(repeat=True))
    with pytest.raises(PeerBehind):
        link.send("b", message("a", 4, b"x"))


def test_opening_names_the_neighbour_that_is_not_there(monkeypatch, network):
    monkeypatch.setattr(relay, "FLUSH_SECONDS", 0.2)
    a = network.site("a", ["b"], ["b"])
    with pytest.raises(PeerTimeout, match="no sign of b within"):
        a.open({}, 0.5)


def test_a_missing_message_names_the_peer_and_the_iteration(network):
    a = network.site("a", ["b", "c"], [])
    with pytest.raises(PeerTimeout, match=r"no value from b, c for iteration 7 within 0\.1 s"):
        a.receive([Key(7, 0, "b"), Key(7, 0, "c")], 0.1)


def test_sending_to_a_stranger_is_an_error(network):
    with pytest.raises(LinkError, match="a has no edge to c"):
        network.site("a", ["b"], ["b"]).send("c", Key(0, 0, "a"), [b"x"])


def data(run_id="run", total=1, payload=b"x", sequence=1, offset=0):
    return pack(Frame(Kind.DATA, sequence, 0, 0, 0, offset, total, payload), run_digest(run_id))


@pytest.mark.parametrize(
    ("sender", "received", "reason"),
    [
        ("b", b"", "malformed"),
        ("b", b"x" * 200, "malformed"),
        ("b", data()[:20], "malformed"),
        ("b", data(total=1, payload=b"xx"), "malformed"),
        ("b", data(total=3, offset=3), "malformed"),
        ("b", data(sequence=0), "malformed"),
        ("b", data(sequence=9), "malformed"),
        ("b", data(total=3, payload=b""), "malformed"),
        ("b", data()[:4] + b"\x07" + data()[5:], "version"),
        ("b", data(run_id="another run"), "run"),
        ("b", data(total=1 << 40), "oversized"),
        ("stranger", data(), "stranger"),
    ],
)
def test_what_is_no_message_of_this_edge_is_refused_and_counted(network, sender, received, reason):
    a = network.site("a", ["b"], ["b"])
    network.deliver("a", sender, received)
    assert network.counters["a"].refusals == {(sender, reason): 1}
    with pytest.raises(PeerTimeout):
        a.receive([Key(0, 0, sender)], 0.05)


def test_a_replayed_frame_is_harmless(network):
    a = network.site("a", ["b"], [])
    network.deliver("a", "b", data())
    key = Key(0, 0, "b")
    assert bytes(a.receive([key], 1)[key]) == b"x"
    network.deliver("a", "b", data())
    with pytest.raises(PeerTimeout):
        a.receive([key], 0.05)


def test_a_neighbour_that_runs_far_ahead_is_held_back_and_loses_nothing(network):
    a, b = network.site("a", [], ["b"]), network.site("b", ["a"], [])
    in_parallel(lambda: a.open({}, 5), lambda: b.open({}, 5))
    for iteration in range(300):
        a.send("b", Key(iteration, 0, "a"), [b"%d" % iteration])
    for iteration in range(300):
        key = Key(iteration, 0, "a")
        assert bytes(b.receive([key], 30)[key]) == b"%d" % iteration
    assert network.counters["b"].refusals.keys() <= {("a", "early")}


def test_pieces_that_threads_bring_at_once_become_one_message(network):
    a, run, pieces = network.site("a", ["b"], []), run_digest("run"), 8
    together = threading.Barrier(pieces)

    def bring(offset):
        for k in range(300):
            sequence = pieces * k + offset + 1
            piece = pack(Frame(Kind.DATA, sequence, 0, k, 0, offset, pieces, b"%d" % offset), run)
            together.wait()
            network.deliver("a", "b", piece)
            together.wait()
            if offset == 0:
                key = Key(k, 0, "b")
                arrived.append(bytes(a.receive([key], 1)[key]))

    arrived = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(pieces) as pool:
            list(pool.map(bring, range(pieces)))
    finally:
        sys.setswitchinterval(interval)
    assert arrived == [b"01234567"] * 300


def test_messages_that_never_become_whole_do_not_fill_the_memory(network):
    network.site("a", ["b"], [])
    for sequence in range(1, 17):
        frame = Frame(Kind.DATA, sequence, 0, sequence, 0, 0, 1 << 20, b"x")
        network.deliver("a", "b", pack(frame, run_digest("run")))
    assert network.counters["a"].refusals["b", "early"] == 8
