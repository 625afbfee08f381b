"""The gossip step, block by block, against the matrices."""

import math

import pytest
import torch

from flaremesh.gossip.mixing import BLOCK, Term, Workspace, entries_of, joined, mix


def take(length, dtype):
    return torch.empty(length, dtype=dtype)


def mixed(own, peers, self_weight, weights, step=1.0):
    terms = [Term(self_weight - 1, entries_of(own))]
    terms += [Term(weight, entries_of(peer)) for peer, weight in zip(peers, weights, strict=True)]
    return through(own, terms, step)


def through(own, terms, step=1.0):
    mixture = torch.empty_like(own)
    norms = mix(own, terms, step, Workspace(own, take), mixture)
    return mixture, abs(terms[0].weight) * joined(norms)


@pytest.mark.parametrize("length", [1, 1000, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
@pytest.mark.parametrize("weights", [[], [0.25], [0.25, 0.125, 0.5]])
def test_blocks_make_the_rows_sum_and_its_distance_from_the_own_value(length, weights):
    own, *peers = torch.randn(1 + len(weights), length, dtype=torch.float64)
    before = own.clone()
    mixture, distance = mixed(own, peers, 1 - sum(weights), weights)
    expected = (1 - sum(weights)) * own + sum(
        (weight * peer for weight, peer in zip(weights, peers, strict=True)), torch.zeros(length)
    )
    torch.testing.assert_close(mixture, expected)
    assert distance == pytest.approx(float(torch.linalg.vector_norm(expected - own)), rel=1e-12)
    assert torch.equal(own, before)
    assert mixture.data_ptr() != own.data_ptr()


def test_a_site_that_keeps_what_it_has_still_adds_what_it_gets():
    own, peer = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    terms = [Term(0.5, entries_of(peer)), Term(0.0, entries_of(own))]
    mixture, distance = through(own, terms)
    assert mixture.tolist() == [6.0, 12.0]
    assert distance == pytest.approx(math.hypot(5, 10))


def test_a_step_goes_part_of_the_way_and_the_distance_is_that_of_the_whole():
    own, peer = torch.tensor([0.0]), torch.tensor([8.0])
    mixture, distance = mixed(own, [peer], 0.5, [0.5], step=0.25)
    assert (mixture.item(), distance) == (1.0, 4.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_distance_of_long_vectors_in_half_precision_is_finite_and_right(dtype):
    own, peer = torch.zeros(100_000, dtype=dtype), torch.full((100_000,), 512.0, dtype=dtype)
    _, distance = mixed(own, [peer], 0.5, [0.5])
    assert distance == pytest.approx(256 * math.sqrt(100_000), rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, BLOCK + 3])
def test_one_value_that_is_not_finite_shows_in_the_distance(value, place):
    own, peer = torch.zeros(2 * BLOCK), torch.zeros(2 * BLOCK)
    peer[place] = value
    _, distance = mixed(own, [peer], 0.5, [0.5])
    assert not math.isfinite(distance)
