"""A site learns the weighted sum of what its neighbours send, and nothing of a single one."""

import hashlib
import struct

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flaremesh.gossip.aggregation import Aggregation, AggregationError, aggregate_bytes, grid_of
from flaremesh.gossip.encodings import PART
from flaremesh.links import LinkError
from flaremesh.topology.neighborhood import neighborhoods, with_partners
from flaremesh.topology.schema import Wire
from flaremesh.topology.weights import by_rule


def hoods_of(graph):
    """The neighbourhoods of an undirected graph with Metropolis weights, by site."""
    names = [f"site{node}" for node in sorted(graph)]
    matrix = by_rule(nx.to_numpy_array(graph, nodelist=sorted(graph)), "metropolis")
    schedules = {site: [hood] for site, hood in neighborhoods(names, matrix).items()}
    return {site: hood for site, (hood,) in with_partners(schedules).items()}


def secrets_of(site, others, salt=b""):
    """What a site shares with each other one, whoever of the two asks."""
    return {
        other: hashlib.sha256(salt + "|".join(sorted((site, other))).encode()).digest() for other in others
    }


class Sites:
    """All sites of a graph, each with what it sends and receives."""

    def __init__(self, graph, wire="exact", averaged=0, salts=None):
        self.hoods = hoods_of(graph)
        salts = salts or {}
        self.sites = {
            site: Aggregation(
                Wire.of(wire), averaged, hood, secrets_of(site, self.hoods, salts.get(site, b"")), stage=0
            )
            for site, hood in self.hoods.items()
        }

    def agree(self, vectors):
        """The short messages before an exchange."""
        told = {site: own.magnitudes(vectors[site]) for site, own in self.sites.items()}
        asked = {site: own.steps(self._to(site, told)) for site, own in self.sites.items()}
        for own in self.sites.values():
            own.heed({peer: asked[peer] for peer in own.awaited})

    def send(self, vectors, iteration=0):
        """By sender, part and receiver, what is sent."""
        self.agree(vectors)
        return {
            (site, part, peer): bytes(payload)
            for site, own in self.sites.items()
            for part, peer, payload in own.publish(iteration)
        }

    def mix(self, sent):
        """What each site makes of it."""
        return {site: own.mix(self.received(site, sent)) for site, own in self.sites.items()}

    def received(self, site, sent):
        parts = range(1 + max(part for _, part, _ in sent))
        return [{peer: sent[peer, part, site] for peer in self.hoods[site].in_weights} for part in parts]

    def _to(self, site, told):
        return {peer: told[peer] for peer in self.hoods[site].in_weights}


def exactly(hoods, vectors, site, number=0):
    """What plain mixing makes in float64."""
    hood = hoods[site]
    own, others = hood.self_weight * vectors[site][number].double(), hood.in_weights.items()
    return own + sum(weight * vectors[peer][number].double() for peer, weight in others)


def drawn(sites, *lengths, scale=1.0, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        site: [scale * torch.randn(n, generator=generator, dtype=torch.float64).to(dtype) for n in lengths]
        for site in sites
    }


def triangles(draw_edges, sites):
    """A cycle in which each is joined to the next but one, and more edges: no neighbourhood is cut."""
    graph = nx.circulant_graph(sites, [1, 2])
    graph.add_edges_from((a % sites, b % sites) for a, b in draw_edges if (a - b) % sites)
    return graph


@settings(deadline=None, max_examples=60)
@given(
    sites=st.integers(3, 8),
    edges=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=8),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    magnitude=st.integers(-12, 12),
    seed=st.integers(0, 1000),
)
def test_a_site_gets_what_plain_mixing_gives_it(sites, edges, dtype, magnitude, seed):
    mesh = Sites(triangles(edges, sites))
    if dtype is torch.float16:
        magnitude = 0
    vectors = drawn(mesh.sites, 50, 1, scale=2.0**magnitude, dtype=dtype, seed=seed)
    mixed = mesh.mix(mesh.send(vectors))
    for site, mixture in mixed.items():
        for number, vector in enumerate(mixture.vectors):
            greatest = max(float(theirs[number].abs().max()) for theirs in vectors.values())
            rounding = 4 * max(torch.finfo(dtype).eps, 2.0**-58 if dtype is torch.float64 else 2.0**-26)
            expected = exactly(mesh.hoods, vectors, site, number)
            assert float((vector.double() - expected).abs().max()) <= rounding * greatest


COMPLETE = nx.complete_graph(4)


@pytest.mark.parametrize("lengths", [(2 * PART + 5,), (PART + 9, 7)])
def test_a_message_in_parts_makes_the_same_numbers(lengths, monkeypatch):
    divided, whole = Sites(COMPLETE), Sites(COMPLETE)
    vectors = drawn(divided.sites, *lengths)
    sent = divided.send(vectors)
    bytes_of_each = {
        peer: sum(len(sent["site0", part, peer]) for part in (0, 1)) for peer in ("site1", "site2")
    }
    expected = aggregate_bytes(Wire(), vectors["site0"])
    mixed = divided.mix(sent)
    monkeypatch.setattr("flaremesh.gossip.aggregation.spans", lambda vectors: [(0, max(map(len, vectors)))])
    undivided = whole.mix(whole.send(vectors))
    assert set(bytes_of_each.values()) == ({expected} if len(lengths) == 2 else {bytes_of_each["site1"]})
    for site, mixture in mixed.items():
        assert mixture.distance == pytest.approx(undivided[site].distance, rel=1e-6)
        for one, other in zip(mixture.vectors, undivided[site].vectors, strict=True):
            assert torch.equal(one, other)


def test_a_message_is_as_long_as_its_vectors_and_a_check():
    sites = Sites(COMPLETE)
    vectors = drawn(sites.sites, 1000, 3)
    sent = sites.send(vectors)
    assert (
        {len(payload) for payload in sent.values()}
        == {4 * 1003 + 8}
        == {aggregate_bytes(Wire(), vectors["site0"])}
    )


@pytest.mark.parametrize("wire", ["exact", "float32"])
def test_a_model_of_float64_travels_with_all_its_digits_or_with_half_its_bytes(wire):
    sites = Sites(COMPLETE, wire)
    vectors = drawn(sites.sites, 1000, dtype=torch.float64)
    sent = sites.send(vectors)
    mixed = sites.mix(sent)["site0"].vectors[0]
    error = float((mixed - exactly(sites.hoods, vectors, "site0")).abs().max())
    assert {len(payload) for payload in sent.values()} == {1000 * (8 if wire == "exact" else 4) + 8}
    assert error < (1e-14 if wire == "exact" else 1e-6)
    assert (error < 1e-10) == (wire == "exact")


def test_vectors_that_are_averaged_have_one_weight_for_the_site_and_each_neighbour():
    sites = Sites(triangles([(0, 3)], 7), averaged=1)
    vectors = drawn(sites.sites, 20, 20)
    for site, mixture in sites.mix(sites.send(vectors)).items():
        members = [site, *sites.hoods[site].in_weights]
        mean = torch.stack([vectors[member][0] for member in members]).mean(dim=0)
        torch.testing.assert_close(mixture.vectors[0], mean, rtol=0, atol=1e-6)
        expected = exactly(sites.hoods, vectors, site, 1)
        torch.testing.assert_close(mixture.vectors[1].double(), expected, rtol=0, atol=1e-6)


def test_zeros_among_great_vectors_and_nothing_but_zeros_are_mixed():
    sites = Sites(COMPLETE)
    vectors = drawn(sites.sites, 10, scale=1e30)
    vectors["site1"] = [torch.zeros(10)]
    mixed = sites.mix(sites.send(vectors))
    expected = exactly(sites.hoods, vectors, "site1")
    torch.testing.assert_close(mixed["site1"].vectors[0].double(), expected, rtol=1e-5, atol=1e24)
    nothing = {site: [torch.zeros(10)] for site in sites.sites}
    assert not any(mixture.vectors[0].any() for mixture in sites.mix(sites.send(nothing, 1)).values())


# what one neighbour's message tells


def words(payload):
    return np.frombuffer(payload, np.uint32)


def test_every_message_is_possible_whatever_a_neighbour_has():
    """What is sent is what is on the grid plus a mask: for another value there is a mask just as likely."""
    ones, others = Sites(COMPLETE), Sites(COMPLETE)
    one, other = drawn(ones.sites, 500), drawn(ones.sites, 500)
    other["site1"] = [one["site1"][0].flip(0)]  # other entries, as great as before
    sent, instead = ones.send(one), others.send(other)
    on_grid = words(sent["site1", 0, "site0"]) - words(instead["site1", 0, "site0"])
    unmasked = {
        site: own._on_grid((0, 500), own._factors["site0"])
        for site, own in (("one", ones.sites["site1"]), ("other", others.sites["site1"]))
    }
    assert np.array_equal(on_grid, unmasked["one"] - unmasked["other"])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_bytes_of_a_message_are_uniform_whatever_it_says(value):
    sites = Sites(COMPLETE)
    sent = sites.send({site: [torch.full((1 << 16,), value)] for site in sites.sites})
    counted = np.bincount(np.frombuffer(sent["site1", 0, "site0"], np.uint8), minlength=256)
    mean = counted.sum() / 256
    chi_square = float(((counted - mean) ** 2 / mean).sum())  # mean 255, standard deviation 22.6
    assert 255 - 5 * 22.6 < chi_square < 255 + 5 * 22.6


def test_no_two_receivers_iterations_or_runs_have_masks_in_common():
    sites, later = Sites(COMPLETE), Sites(COMPLETE, salts=dict.fromkeys(hoods_of(COMPLETE), b"next run"))
    vectors = {site: [torch.zeros(1000)] for site in sites.sites}
    first = sites.send(vectors)["site1", 0, "site0"]
    others = [
        sites.send(vectors)["site1", 0, "site2"],
        sites.send(vectors, iteration=1)["site1", 0, "site0"],
        later.send(vectors)["site1", 0, "site0"],
    ]
    for other in others:
        assert np.mean(words(first) == words(other)) < 0.01


def test_what_is_sent_once_more_in_the_clear_is_nowhere_in_what_a_site_receives():
    """A curious site of a complete graph fits each neighbour's vectors to all that it has recorded of it."""
    sites = Sites(COMPLETE)
    record, truth = [], []
    for iteration in range(200):
        vectors = drawn(sites.sites, 40, seed=iteration)
        sent = sites.send(vectors, iteration)
        record.append(words(sent["site1", 0, "site0"])[:40].astype(np.int32) / 2.0**31)
        truth.append(vectors["site1"][0].numpy())
    correlation = np.corrcoef(np.ravel(record), np.ravel(truth))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(200 * 40)


# never a wrong sum


def test_a_part_that_one_neighbour_did_not_send_makes_no_sum():
    sites = Sites(COMPLETE)
    sent = sites.send(drawn(sites.sites, 10))
    received = sites.received("site0", sent)
    del received[0]["site2"]
    with pytest.raises(LinkError, match=r"^without what site2 sends there is no sum"):
        sites.sites["site0"].mix(received)


@pytest.mark.parametrize(
    ("who", "why"), [("site1", "another secret"), ("site2", "another iteration")], ids=["secret", "iteration"]
)
def test_masks_that_do_not_cancel_make_no_sum(who, why):
    salts = {"site1": b"an earlier run"} if why == "another secret" else {}
    sites = Sites(COMPLETE, salts=salts)
    vectors = drawn(sites.sites, 10)
    sent = sites.send(vectors)
    if not salts:
        for part, peer, payload in sites.sites[who].publish(1):
            sent[who, part, peer] = bytes(payload)
    with pytest.raises(LinkError, match=r"^what site1, site2, site3 sent site0 makes no sum, as their masks"):
        sites.sites["site0"].mix(sites.received("site0", sent))


def test_who_asks_all_but_one_for_grids_on_which_their_vectors_vanish_does_not_learn_that_one():
    sites = Sites(COMPLETE)
    vectors = drawn(sites.sites, 1000)
    sites.agree(vectors)
    curious = sites.sites["site0"]
    step = curious._steps[0]
    for peer, asked in [("site1", step), ("site2", step + 40), ("site3", step + 40)]:
        sites.sites[peer].heed({"site0": curious._asked.pack(curious._unit, False, asked)})
    sent = {
        peer: next(words(payload) for _, to, payload in sites.sites[peer].publish(0) if to == "site0")
        for peer in ("site1", "site2", "site3")
    }
    learnt = sum(sent.values()).astype(np.int32)[:1000] * 2.0**step
    own = vectors["site1"][0].numpy()  # all weights are equal
    assert abs(np.corrcoef(learnt, own)[0, 1]) < 0.2


def test_who_tells_one_neighbour_another_magnitude_than_the_next_makes_no_sum():
    sites = Sites(COMPLETE)
    vectors = drawn(sites.sites, 10)
    sites.agree(vectors)  # from now on all know by themselves what grid each wants
    told = {site: own.magnitudes(vectors[site]) for site, own in sites.sites.items()}
    for site, own in sites.sites.items():
        heard = {peer: told[peer] for peer in sites.hoods[site].in_weights}
        if site == "site1":
            heard["site3"] = struct.pack("<h", 40)
        assert own.steps(heard) is None
        assert own.awaited == []
        own.heed({})
    sent = {
        (site, part, peer): bytes(payload)
        for site, own in sites.sites.items()
        for part, peer, payload in own.publish(1)
    }
    with pytest.raises(
        LinkError, match=r"makes no sum, as their masks do not cancel: .* other masks or grids"
    ):
        sites.sites["site0"].mix(sites.received("site0", sent))


def test_grids_are_asked_for_once_where_all_are_neighbours_and_always_where_not():
    for graph, once in [(COMPLETE, True), (nx.wheel_graph(6), False)]:
        sites = Sites(graph)
        for iteration in range(3):
            vectors = drawn(sites.sites, 100, scale=10.0**iteration, seed=iteration)
            mixed = sites.mix(sites.send(vectors, iteration))
            for site, mixture in mixed.items():
                expected = exactly(sites.hoods, vectors, site)
                torch.testing.assert_close(
                    mixture.vectors[0].double(), expected, rtol=0, atol=1e-5 * 10**iteration
                )
        assert all((own.awaited == []) == once for own in sites.sites.values())


def test_whatever_one_neighbour_asks_for_no_entry_wraps_around():
    sites = Sites(COMPLETE)
    vectors = drawn(sites.sites, 10)
    sites.agree(vectors)
    own = sites.sites["site0"]
    unit, step = own._unit, own._steps[0]
    for asked in [(unit, step - 5), (unit / 64, step), (0.0, step), (float("nan"), step), (unit, -32768)]:
        with pytest.raises(LinkError, match=r"^site1 asks site0 for values in steps of 2"):
            own.heed({"site1": own._asked.pack(asked[0], False, *asked[1:])})


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.floats(2**-20, 1), st.integers(-16, 32).map(lambda n: 4 * n)), min_size=1, max_size=40
    )
)
def test_the_greatest_vectors_that_neighbours_may_have_are_on_the_grid(summands):
    for grid in (grid_of(Wire(), torch.float32), grid_of(Wire(), torch.float64)):
        step = grid.step(summands)
        total = sum(round(weight * 2.0 ** (magnitude - step)) + 1 for weight, magnitude in summands)
        assert total < 2 ** (grid.bits - 1)
        assert all(grid.holds(weight, magnitude, step) for weight, magnitude in summands)
        finer = sum(weight * 2.0 ** (magnitude - step + 1) for weight, magnitude in summands)
        assert finer > 0.99 * 2 ** (grid.bits - 1)


@pytest.mark.parametrize(
    ("entry", "dtype", "words"),
    [
        (float("nan"), torch.float32, "an entry that is not finite"),
        (float("-inf"), torch.float32, "an entry that is not finite"),
        (1e200, torch.float64, "an entry beyond the range of float32"),
    ],
)
def test_who_has_what_is_on_no_grid_says_so_and_sends_nothing(entry, dtype, words):
    sites = Sites(COMPLETE, "float32")
    vectors = drawn(sites.sites, 10, dtype=dtype)
    vectors["site2"][0][3] = entry
    with pytest.raises(AggregationError, match=f"^site2 has {words}"):
        sites.send(vectors)


def test_a_neighbour_that_claims_impossible_magnitudes_is_named():
    own = Sites(COMPLETE).sites["site0"]
    own.magnitudes([torch.zeros(3)])
    with pytest.raises(LinkError, match=r"^site3 sent magnitudes \[132\], which no vector has"):
        own.steps({"site3": struct.pack("<h", 132)})
    with pytest.raises(LinkError, match=r"^site3 sent 3 bytes, expected 2"):
        own.steps({"site3": b"abc"})


def test_a_site_sends_nothing_to_a_neighbour_where_nobody_hides_it():
    with pytest.raises(AggregationError, match=r"^nothing would hide what site0 sends to site1 and site3"):
        Sites(nx.cycle_graph(4))
