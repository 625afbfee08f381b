"""One site mixes the messages of an exchange, with every wire."""

import struct

import pytest
import torch

from flaremesh.gossip import Gossip, GossipError, message_bytes, spans
from flaremesh.gossip.encodings import PART, RANKED, SCALED
from flaremesh.gossip.mixing import mix
from flaremesh.links import LinkError
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Wire

BONN = Neighborhood("bonn", self_weight=0.5, in_weights={"kiel": 0.5}, out=("kiel",))
KIEL = Neighborhood("kiel", self_weight=0.5, in_weights={"bonn": 0.5}, out=("bonn",))
ENCODINGS = ["exact", "float32", "bfloat16", "float16", "int8", "top-k"]


class Pair:
    """Two sites that average with each other."""

    def __init__(self, wire, **options):
        self.bonn, self.kiel = (Gossip(Wire.of(wire), **options) for _ in range(2))

    def exchange(self, bonns, kiels):
        """What both make of their vectors, after what they sent was handed over."""
        to_kiel, to_bonn = messages(self.bonn.publish(bonns)), messages(self.kiel.publish(kiels))
        return (
            self.bonn.mix(BONN, [{"kiel": part} for part in to_bonn]),
            self.kiel.mix(KIEL, [{"bonn": part} for part in to_kiel]),
        )


def messages(parts):
    return [memoryview(bytearray(b"".join(payloads))) for payloads in parts]


def message(parts):
    (only,) = messages(parts)
    return only


def vectors(*lengths, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator, dtype=dtype) for length in lengths]


@pytest.mark.parametrize("wire", ENCODINGS)
def test_whatever_the_wire_drops_the_sum_of_all_parts_of_the_message_stays(wire):
    bonns, kiels = vectors(RANKED + 3, 1, SCALED), vectors(RANKED + 3, 1, SCALED, seed=1)
    pair = Pair(wire)
    for _ in range(3):
        before = [b + k for b, k in zip(bonns, kiels, strict=True)]
        bonns, kiels = (mixture.vectors for mixture in pair.exchange(bonns, kiels))
        for b, k, total in zip(bonns, kiels, before, strict=True):
            torch.testing.assert_close(b + k, total, rtol=0, atol=1e-14)


def test_an_exact_message_is_the_memory_of_the_vectors():
    x, y = vectors(3, 4)
    (payloads,) = Gossip(Wire()).publish([x, y])
    x[0] = 7.0
    assert struct.unpack("3d", payloads[0])[0] == 7.0
    assert [len(payload) for payload in payloads] == [24, 32]


def undivided(monkeypatch):
    monkeypatch.setattr("flaremesh.gossip.gossip.spans", lambda vectors: [(0, max(map(len, vectors)))])


@pytest.mark.parametrize("wire", ENCODINGS)
@pytest.mark.parametrize("lengths", [(2 * PART + RANKED + 5,), (PART + 1, PART + 1), (PART + 9, 7)])
def test_a_message_in_parts_makes_the_same_numbers_to_the_last_bit(wire, lengths, monkeypatch):
    divided, whole = Pair(wire), Pair(wire)
    bonns = theirs = vectors(*lengths, dtype=torch.float32)
    kiels = others = vectors(*lengths, seed=1, dtype=torch.float32)
    for _ in range(3):
        here, there = divided.exchange(bonns, kiels)
        with monkeypatch.context() as patch:
            undivided(patch)
            same, alike = whole.exchange(theirs, others)
        assert here.distance == same.distance
        bonns, kiels, theirs, others = here.vectors, there.vectors, same.vectors, alike.vectors
        for mine, yours in zip([*bonns, *kiels], [*theirs, *others], strict=True):
            assert torch.equal(mine, yours)


@pytest.mark.parametrize("wire", ENCODINGS)
@pytest.mark.parametrize("length", [1, PART, PART + 1])
def test_the_parts_have_the_length_that_is_announced_and_are_not_many(wire, length):
    vector = torch.zeros(length)
    parts = messages(Gossip(Wire.of(wire)).publish([vector, torch.zeros(3)]))
    assert sum(map(len, parts)) == message_bytes(Wire.of(wire), [vector, torch.zeros(3)])
    assert len(parts) == (2 if length > PART else 1)


def test_the_parts_of_a_long_message_are_not_many():
    lengths = [PART, 64 * PART, 64 * PART + 1, 1000 * PART]
    likes = [torch.empty(length, device="meta") for length in lengths]
    assert [len(spans([like])) for like in likes] == [1, 64, 33, 63]


def test_poison_in_a_later_part_is_found():
    gossip = Gossip(Wire())
    fine = messages(gossip.publish(vectors(2 * PART)))
    worse = bytearray(fine[1])
    worse[:8] = b"\xff" * 8
    parts = [{"kiel": fine[0], "ulm": fine[0]}, {"kiel": memoryview(worse), "ulm": fine[1]}]
    assert gossip.mix(TRIO, parts).poisoned == ("kiel",)


@pytest.mark.parametrize("wire", ["int8", "top-k", "float16"])
def test_the_last_vector_can_be_kept_exact_and_is_mixed_at_once(wire):
    pair = Pair(wire, exact_last=True)
    (x, here), (y, there) = vectors(1000, 5), vectors(1000, 5, seed=1)
    bonns, _ = pair.exchange([x, here], [y, there])
    torch.testing.assert_close(bonns.vectors[1], (here + there) / 2, rtol=0, atol=1e-15)
    assert not torch.allclose(bonns.vectors[0], (x + y) / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("wire", ["int8", "top-k"])
def test_both_ends_hold_the_same_copies_to_the_last_bit(wire):
    pair = Pair(wire)
    bonns, kiels = vectors(5000, dtype=torch.float32), vectors(5000, seed=1, dtype=torch.float32)
    for _ in range(50):
        bonns, kiels = (mixture.vectors for mixture in pair.exchange(bonns, kiels))
    here, there = (gossip.snapshot()[0] for gossip in (pair.bonn, pair.kiel))
    assert torch.equal(here[""], there["bonn"])
    assert torch.equal(here["kiel"], there[""])
    assert here[""].abs().min() > 0


def test_a_snapshot_of_vectors_of_another_length_is_refused():
    pair = Pair("int8")
    pair.exchange(vectors(5), vectors(5, seed=1))
    with pytest.raises(ValueError, match=r"a copy of \(5,\) of a vector of \(6,\)"):
        Pair("int8").bonn.restore(vectors(6), pair.bonn.snapshot())


@pytest.mark.parametrize("wire", ["int8", "top-k"])
def test_copies_need_neighbours_that_stay(wire):
    with pytest.raises(GossipError, match=f"wire: {wire} keeps copies .*; write wire: bfloat16"):
        Gossip(Wire.of(wire), phases=2)


@pytest.mark.parametrize("wire", ENCODINGS)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_message_of_another_length_names_its_sender(wire, change):
    gossip = Gossip(Wire.of(wire))
    size = len(message(gossip.publish(vectors(100))))
    with pytest.raises(LinkError, match=rf"^kiel sent {size + change} bytes, expected {size}: is its model"):
        gossip.mix(BONN, [{"kiel": bytes(size + change)}])


@pytest.mark.parametrize(
    ("wire", "first_bytes", "words"),
    [
        ("int8", struct.pack("d", float("nan")), "a scale that is not finite"),
        ("float16", struct.pack("d", float("inf")), "a scale that is not finite"),
        ("top-k", struct.pack("d", float("inf")), "an entry that is not finite"),
        (
            {"encoding": "top-k", "fraction": 1.0},
            bytes(800) + struct.pack("H", 100),
            "an entry beyond the end",
        ),
    ],
)
def test_a_message_that_is_no_vector_names_its_sender_and_what_is_wrong(wire, first_bytes, words):
    gossip = Gossip(Wire.of(wire))
    size = len(message(gossip.publish(vectors(100))))
    with pytest.raises(LinkError, match=f"^kiel sent {words}"):
        gossip.mix(BONN, [{"kiel": first_bytes.ljust(size, b"\0")}])


TRIO = Neighborhood("bonn", self_weight=0.5, in_weights={"kiel": 0.25, "ulm": 0.25}, out=("kiel",))


@pytest.mark.parametrize("wire", ["exact", "float32", "bfloat16"])
@pytest.mark.parametrize("vector", [0, 1])
def test_of_several_neighbours_the_one_that_sent_poison_is_named(wire, vector):
    gossip = Gossip(Wire.of(wire))
    fine = message(gossip.publish(vectors(100, 100)))
    assert gossip.mix(TRIO, [{"kiel": fine, "ulm": fine}]).poisoned == ()
    worse = bytearray(fine)
    half = vector * len(fine) // 2
    worse[half : half + 8] = b"\xff" * 8
    assert gossip.mix(TRIO, [{"kiel": fine, "ulm": memoryview(worse)}]).poisoned == ("ulm",)


def test_a_sum_that_overflows_is_nobodys_poison():
    gossip = Gossip(Wire.of("exact"))
    great = [torch.full((100,), 1e308, dtype=torch.float64)]
    fine = message(gossip.publish([-great[0]]))
    message(gossip.publish(great))
    mixture = gossip.mix(TRIO, [{"kiel": fine, "ulm": fine}])
    assert mixture.distance == float("inf")
    assert mixture.poisoned == ()


def test_what_a_model_keeps_beside_its_parameters_may_be_infinite():
    gossip = Gossip(Wire.of("exact"), exact_last=True)
    values, mask = torch.zeros(3), torch.tensor([0.0, -torch.inf])
    masked = message(gossip.publish([values, mask]))
    assert gossip.mix(BONN, [{"kiel": masked}]).poisoned == ()


def test_large_vectors_take_turns_in_the_same_memory():
    pair = Pair("exact")
    bonns, kiels = vectors(100_000), vectors(100_000, seed=1)
    addresses = []
    for _ in range(10):
        bonns, kiels = (mixture.vectors for mixture in pair.exchange(bonns, kiels))
        addresses.append(bonns[0].data_ptr())
    assert len(set(addresses[2:])) == 2


@pytest.mark.parametrize("wire", ENCODINGS)
def test_one_thread_mixes_and_the_problem_gets_all_of_them_back(wire, monkeypatch):
    threads = []

    def observed(*arguments):
        threads.append(torch.get_num_threads())
        return mix(*arguments)

    monkeypatch.setattr("flaremesh.gossip.gossip.mix", observed)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        Pair(wire).exchange(vectors(100_000), vectors(100_000, seed=1))
        assert threads == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_nothing_that_was_received_is_held_on_to():
    gossip = Gossip(Wire())
    payload = bytearray(message(gossip.publish(vectors(100))))
    gossip.mix(BONN, [{"kiel": memoryview(payload)}])
    payload.clear()  # raises BufferError while anything refers to it
