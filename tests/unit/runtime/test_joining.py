"""What a site hears before it joins a run that went on without it."""

import pytest
import torch

from flaremesh.links import LinkError
from flaremesh.links.inprocess import InProcessLink, inboxes
from flaremesh.runtime.joining import Joining
from flaremesh.topology.neighborhood import Neighborhood

INITIAL = torch.zeros(2, dtype=torch.float64)
PHASES = [
    Neighborhood("bonn", 0.5, {"ulm": 0.25, "worms": 0.25}, ("ulm",)),
    Neighborhood("bonn", 0.5, {"essen": 0.5}, ("essen",)),
]
SITES = ("bonn", "ulm", "worms", "essen")


def heard(joining, **estimates):
    """Where bonn joins when its neighbours tell these estimates."""
    boxes = inboxes(SITES)
    for site, estimate in estimates.items():
        hood = Neighborhood(site, 1.0, {}, ("bonn", "elsewhere"))
        joining.tell(InProcessLink(site, boxes), [hood], torch.tensor(estimate, dtype=torch.float64), 1.0)
    return joining.learn(InProcessLink("bonn", boxes), PHASES, INITIAL, 0.1)


def test_it_begins_at_the_mean_of_all_phases_neighbours_that_have_stayed():
    there = heard(Joining(300, ("bonn", "worms")), ulm=[1.0, 2.0], essen=[3.0, 6.0])
    torch.testing.assert_close(there, torch.tensor([2.0, 4.0], dtype=torch.float64))


def test_without_such_a_neighbour_it_begins_at_its_own_initial_point():
    assert heard(Joining(300, SITES)) is INITIAL


@pytest.mark.parametrize(
    ("estimate", "why"), [([1.0, float("nan")], "essen sent bonn an estimate"), ([1.0], "essen sent 8 bytes")]
)
def test_a_neighbour_that_tells_something_else_is_named(estimate, why):
    with pytest.raises(LinkError, match=why):
        heard(Joining(300, ("bonn", "worms")), ulm=[1.0, 2.0], essen=estimate)


def test_a_neighbour_that_tells_nothing_is_named():
    with pytest.raises(LinkError, match="essen"):
        heard(Joining(300, ("bonn", "worms")), ulm=[1.0, 2.0])
