"""Networks as the bench makes them: they need the right to make namespaces and TUN devices."""

import pytest

from bench.wan.network import joined, path
from bench.wan.trial import between
from networks import own_networks

MEGABIT = 1e6


@pytest.fixture(scope="module")
def rights():
    own_networks()


@pytest.mark.usefixtures("rights")
@pytest.mark.parametrize(("rate", "one_way"), [(100 * MEGABIT, 0.025), (50 * MEGABIT, 0.005)])
def test_a_path_has_the_round_trip_and_the_rate_that_were_asked_for(rate, one_way):
    with joined(["a", "b"], path(rate, one_way)) as network:
        found = between(network, "a", "b", int(rate / 8))
        router = network.figures()["router"]
    assert 2 * one_way <= found.shortest < 2 * one_way + 0.002
    # headers take 3.5 %; a busy machine takes some of the rest, or makes the clock start late
    assert 0.6 * rate < found.rate < 1.1 * rate, router


@pytest.mark.usefixtures("rights")
def test_lines_lose_the_share_that_was_asked_for():
    with joined(["a", "b"], path(50 * MEGABIT, 0.001, loss=0.02)) as network:
        between(network, "a", "b", 10_000_000)
        figures = network.figures()
    packets = figures["up"][0]["packets"]
    lost = figures["up"][0]["lost"] + figures["down"][1]["lost"]
    assert packets > 10_000_000 / 1448
    assert 0.01 < lost / packets < 0.03


@pytest.mark.usefixtures("rights")
def test_a_site_reaches_the_others_through_the_lines_alone():
    with joined(["a", "b", "c"], path(100 * MEGABIT, 0.01)) as network:
        between(network, "a", "c", 100_000)
        figures = network.figures()
    assert figures["up"][0]["bytes"] > 100_000
    assert figures["down"][2]["bytes"] > 100_000
    assert figures["up"][1]["bytes"] < 1000


@pytest.mark.usefixtures("rights")
def test_lines_take_another_shape_while_they_are_in_use():
    with joined(["a", "b"], path(100 * MEGABIT, 0.001)) as network:
        before = between(network, "a", "b", 1000)
        network.shape(path(100 * MEGABIT, 0.02))
        after = between(network, "a", "b", 1000)
    assert before.shortest < 0.02
    assert after.shortest >= 0.04
