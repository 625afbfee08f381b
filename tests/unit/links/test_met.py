"""Links of sites that nobody can dial: they meet at a point that understands nothing of what passes."""

from direct_mesh import exchange

from flaremesh.links import LinkKind

BOTH = [("a", "b"), ("b", "a")]


def numbered(length):
    return lambda sender, k: f"{sender}{k:06d}".encode() * (length // 7)


def test_two_sites_that_nobody_can_dial_exchange_through_a_meeting_point(sites, place):
    for name, other in BOTH:
        sites.add(name, [other], [other], listens=False, meeting=place.meeting(name))
    assert not any(sites.open().values())
    assert exchange(sites, BOTH, 20, numbered(70_000)) == []
    assert sites.observers["a"].links == {"b": LinkKind.MET}
    assert sites.observers["b"].links == {"a": LinkKind.MET}
    assert sum(sites.relayed.values()) == 0
