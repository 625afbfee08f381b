"""What every link promises, whatever carries its messages."""

from types import SimpleNamespace

import pytest
from direct_mesh import exchange

from flaremesh.links import Key, PeerTimeout
from flaremesh.links.inprocess import InProcessLink, inboxes

BOUND = 20  # seconds; reached only by a failure


@pytest.fixture(params=["direct", "relay", "auto", "inprocess"])
def mesh(request):
    """The complete graph of sites a, b and c over one carrier."""
    names = "abc"
    if request.param == "inprocess":
        boxes = inboxes(names)
        return SimpleNamespace(links={name: InProcessLink(name, boxes) for name in names})
    sites = request.getfixturevalue("sites")
    for name in names:
        others = [other for other in names if other != name]
        sites.add(name, others, others, mode=request.param, direct=request.param != "relay")
    assert not any(sites.open(timeout=BOUND).values())
    return sites


def received(mesh, receiver, key):
    return bytes(mesh.links[receiver].receive([key], BOUND)[key])


@pytest.mark.parametrize("length", [0, 1, 48, (1 << 15) - 1, 1 << 15, (3 << 20) + 5])
def test_a_message_of_any_length_arrives_with_the_same_bytes(mesh, length):
    message = (bytes(range(256)) * (length // 256 + 1))[:length]
    key = Key(0, 0, "a")
    mesh.links["a"].send("b", key, [message[: length // 3], memoryview(message)[length // 3 :]])
    assert received(mesh, "b", key) == message


def test_both_directions_carry_at_once(mesh):
    pairs = [("a", "b"), ("b", "a")]
    assert exchange(mesh, pairs, 10, lambda sender, k: f"{sender}{k}".encode() * 20_000) == []


def test_neighbours_that_send_at_once_are_told_apart(mesh):
    assert exchange(mesh, [("a", "c"), ("b", "c")], 50, lambda sender, k: f"{sender}{k}".encode()) == []


def test_what_was_received_is_not_received_again(mesh):
    key, after = Key(0, 0, "a"), Key(1, 0, "a")
    mesh.links["a"].send("b", key, [b"once"])
    mesh.links["a"].send("b", after, [b"after"])
    assert received(mesh, "b", key) == b"once"
    assert received(mesh, "b", after) == b"after"
    with pytest.raises(PeerTimeout):
        mesh.links["b"].receive([key], 0)


def test_a_sender_that_runs_ahead_of_a_slow_receiver_loses_nothing(mesh):
    for k in range(300):
        mesh.links["a"].send("b", Key(k, 0, "a"), [b"%d" % k])
    assert [received(mesh, "b", Key(k, 0, "a")) for k in range(300)] == [b"%d" % k for k in range(300)]


def test_a_silent_neighbour_and_it_alone_is_named_at_the_deadline(mesh):
    for k in (8, 9):
        mesh.links["b"].send("a", Key(k, 0, "b"), [b"x"])
    assert received(mesh, "a", Key(9, 0, "b")) == b"x"  # and so has come what was sent before
    with pytest.raises(PeerTimeout) as caught:
        mesh.links["a"].receive([Key(8, 0, "b"), Key(8, 0, "c")], 0.2)
    assert caught.value.peers == ["c"]
    assert caught.value.iteration == 8


def test_a_site_that_closes_at_once_loses_nothing_that_it_sent(mesh):
    for k in range(20):
        mesh.links["a"].send("b", Key(k, 0, "a"), [b"%d" % k * 20_000])
    mesh.links.pop("a").close(patience=BOUND)
    assert [received(mesh, "b", Key(k, 0, "a")) for k in range(20)] == [b"%d" % k * 20_000 for k in range(20)]
