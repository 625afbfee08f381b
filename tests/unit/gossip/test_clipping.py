"""Self-centred clipping: whatever a neighbour sends, it moves a site by a bounded distance."""

import math

import pytest
import torch

from flaremesh.gossip import Gossip
from flaremesh.gossip.clipping import clipped, clipped_away
from flaremesh.gossip.encodings import PART
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Wire

HOOD = Neighborhood("bonn", 0.4, {"aachen": 0.3, "kiel": 0.2, "ulm": 0.1}, ("kiel",))
ENCODINGS = ["exact", "float32", "bfloat16", "float16", "int8", "top-k"]
HONEST = {"aachen": 1.0, "kiel": 2.0}


def vector(seed, length=1000, dtype=torch.float64):
    return torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parts(gossip, *vectors):
    """What a site sends, part by part."""
    return [memoryview(bytearray(b"".join(payloads))) for payloads in gossip.publish(vectors)]


class Bonn:
    """One site that clips, and the senders of what it receives."""

    def __init__(self, clip, wire="exact", **options):
        self.bonn = Gossip(Wire.of(wire), clip=clip, **options)
        self._senders = {peer: Gossip(Wire.of(wire), **options) for peer in HOOD.in_weights}

    def mix(self, own, **theirs):
        """What it makes of the vectors, of which each is one or a tuple."""
        sent = {peer: parts(self._senders[peer], *_all(vectors)) for peer, vectors in theirs.items()}
        for _ in self.bonn.publish(_all(own)):
            pass
        turns = zip(*sent.values(), strict=True)
        return self.bonn.mix(HOOD, [dict(zip(sent, part, strict=True)) for part in turns])


def _all(vectors):
    return vectors if isinstance(vectors, tuple) else (vectors,)


def clip(vector, radius):
    return vector * min(1.0, radius / float(vector.norm()))


def test_a_mixture_is_what_the_equation_says():
    x, *others = map(vector, range(4))
    theirs = dict(zip(HOOD.in_weights, [3 * other for other in others], strict=True))
    mixture = Bonn(clip=20.0).mix(x, **theirs)
    step = sum(HOOD.in_weights[peer] * clip(other - x, 20.0) for peer, other in theirs.items())
    torch.testing.assert_close(mixture.vectors[0], x + step, rtol=0, atol=1e-12)
    assert mixture.distance == pytest.approx(float(step.norm()))
    assert mixture.clipped == pytest.approx(
        {peer: 1 - 20.0 / float((other - x).norm()) for peer, other in theirs.items()}
    )


def test_who_sends_a_million_moves_a_site_by_its_weight_times_the_radius_and_no_further():
    x = vector(0)
    mixture = Bonn(1.0).mix(x, aachen=x, kiel=x, ulm=torch.full_like(x, 1e6))
    assert float((mixture.vectors[0] - x).norm()) == pytest.approx(HOOD.in_weights["ulm"] * 1.0)
    assert mixture.clipped == {"ulm": pytest.approx(1, abs=1e-6)}


@pytest.mark.parametrize("wire", ENCODINGS)
def test_whatever_all_send_by_any_wire_a_site_moves_by_the_sum_of_their_weights_times_the_radius(wire):
    x, site = vector(0), Bonn(1.0, wire)
    for seed in range(3):
        theirs = {peer: 1e6 * vector(seed + 10 * i) for i, peer in enumerate(HOOD.in_weights, 1)}
        (after,) = site.mix(x, **theirs).vectors
        assert 0 < float((after - x).norm()) <= Wire.of(wire).step * 0.6 * 1.0 * (1 + 1e-9)
        x = after


@pytest.mark.parametrize("sent", [0.0, 1e-9, 1.0, 1e6, 1e150, 1e300, math.inf, math.nan])
def test_with_auto_one_hostile_neighbour_moves_a_site_no_more_than_an_honest_one_could(sent):
    """Whatever it sends, the radius is at most the distance of the farthest honest neighbour."""
    x = torch.zeros(4, dtype=torch.float64)
    near, far = torch.eye(4, dtype=torch.float64)[:2] * torch.tensor([[1.0], [2.0]])
    hostile = torch.full_like(x, sent)
    (after,) = Bonn("auto").mix(x, aachen=near, kiel=far, ulm=hostile).vectors
    (without,) = Bonn("auto").mix(x, aachen=near, kiel=far, ulm=x).vectors
    assert float((after - without).norm()) <= (0.1 * 2.0 + 0.2 * 1.0) * (1 + 1e-12)
    assert bool(after.isfinite().all())


def test_auto_takes_the_second_greatest_distance():
    hood = clipped(HOOD, HONEST | {"ulm": 100.0}, "auto")
    assert hood.in_weights == pytest.approx({"aachen": 0.3, "kiel": 0.2, "ulm": 0.1 * 0.02})
    assert hood.self_weight + sum(hood.in_weights.values()) == pytest.approx(1)
    assert clipped_away(HOOD, hood) == pytest.approx({"ulm": 0.98})
    assert clipped(HOOD, HONEST | {"ulm": 2.0}, "auto") is HOOD


@pytest.mark.parametrize("distance", [math.inf, math.nan])
def test_of_what_is_infinitely_far_nothing_is_taken_and_the_site_keeps_the_weight(distance):
    hood = clipped(HOOD, HONEST | {"ulm": distance}, 5.0)
    assert hood.in_weights == {"aachen": 0.3, "kiel": 0.2}
    assert hood.self_weight == pytest.approx(0.5)
    assert clipped_away(HOOD, hood) == {"ulm": 1.0}


@pytest.mark.parametrize("wire", ENCODINGS)
def test_where_nobody_is_far_the_numbers_are_those_of_plain_mixing_to_the_last_bit(wire):
    clipping, plain = Bonn(1e9, wire), Bonn(None, wire)
    x = y = vector(0)
    for seed in range(3):
        theirs = {peer: vector(seed + 10 * i) for i, peer in enumerate(HOOD.in_weights, 1)}
        one, other = clipping.mix(x, **theirs), plain.mix(y, **theirs)
        assert (one.distance, one.clipped) == (other.distance, {})
        (x,), (y,) = one.vectors, other.vectors
        assert torch.equal(x, y)


@pytest.mark.parametrize("wire", ENCODINGS)
def test_all_parts_of_a_message_are_clipped_by_its_whole_distance(wire, monkeypatch):
    length = 2 * PART + 5
    x, theirs = vector(0, length), {peer: vector(i, length) for i, peer in enumerate(HOOD.in_weights, 1)}
    theirs["ulm"][-1] = 1e6  # which only the last part tells
    divided = Bonn("auto", wire).mix(x, **theirs)
    monkeypatch.setattr("flaremesh.gossip.gossip.spans", lambda vectors: [(0, max(map(len, vectors)))])
    whole = Bonn("auto", wire).mix(x, **theirs)
    assert divided.clipped == whole.clipped
    assert torch.equal(divided.vectors[0], whole.vectors[0])


@pytest.mark.parametrize("wire", ["int8", "top-k"])
def test_copies_follow_what_was_sent_however_much_of_it_is_clipped(wire):
    bonn, ulm = Gossip(Wire.of(wire), clip=0.1), Gossip(Wire.of(wire), clip=0.1)
    hood, back = (
        Neighborhood("bonn", 0.5, {"ulm": 0.5}, ("ulm",)),
        Neighborhood("ulm", 0.5, {"bonn": 0.5}, ()),
    )
    x, y = vector(0), 1e3 * vector(1)
    for _ in range(5):
        there, here = parts(bonn, x), parts(ulm, y)
        (x,) = bonn.mix(hood, [{"ulm": here[0]}]).vectors
        (y,) = ulm.mix(back, [{"bonn": there[0]}]).vectors
    one, other = bonn.snapshot()[0], ulm.snapshot()[0]
    assert torch.equal(one[""], other["bonn"])
    assert torch.equal(one["ulm"], other[""])


@pytest.mark.parametrize("wire", ["exact", "float32", "bfloat16"])
def test_who_sends_what_is_not_finite_is_named_and_nothing_of_it_is_taken(wire):
    x, near = vector(0), vector(1)
    mixture = Bonn(1e9, wire).mix(x, aachen=near, kiel=near, ulm=torch.full_like(x, torch.nan))
    assert mixture.poisoned == ("ulm",)
    assert mixture.clipped == {"ulm": 1.0}
    torch.testing.assert_close(mixture.vectors[0], 0.5 * (x + near), rtol=1e-2, atol=1e-1)


def test_finite_values_of_which_the_distance_overflows_are_nobodys_poison():
    x = vector(0)
    mixture = Bonn(1.0).mix(x, aachen=x, kiel=x, ulm=torch.full_like(x, 1e308))
    assert (mixture.poisoned, mixture.clipped) == ((), {"ulm": 1.0})


def test_statistics_are_clipped_by_themselves_and_constants_among_them_may_be_infinite():
    x, statistics = vector(0), torch.tensor([1.0, -torch.inf], dtype=torch.float64)
    wrong = torch.tensor([1e6, -torch.inf], dtype=torch.float64)
    site = Bonn("auto", exact_last=True)
    mixture = site.mix((x, statistics), aachen=(x, statistics + 1), kiel=(x, statistics + 1), ulm=(x, wrong))
    assert mixture.vectors[1][0] == pytest.approx(1 + 0.3 + 0.2 + 0.1)
    assert torch.equal(mixture.vectors[0], x)
    assert (mixture.poisoned, mixture.clipped.keys()) == ((), {"ulm"})
