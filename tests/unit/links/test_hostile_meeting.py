"""A meeting point that is not what it should be stops what it carries, and changes and ends nothing else."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from direct_mesh import exchange
from meeting_place import comes_true
from test_met import UNRELAYED, numbered

from flaremesh.links import LinkError, LinkKind, connector
from meddler import MEDDLES, SPEAKS, Meddler

SITES = "abc"
PAIRS = [(one, other) for one in SITES for other in SITES if one != other]


@pytest.fixture
def soon(monkeypatch):
    """The relay joins in, and the meeting point is tried again, after moments."""
    for name, seconds in (("DIAL", 1.0), ("ATTEMPT", 0.8), ("RETURN", 0.2)):
        monkeypatch.setattr(connector, f"_{name}_SECONDS", seconds)
    monkeypatch.setattr(connector, "_RETURN_SECONDS_MAX", 0.2)


@pytest.fixture
def meddler(place, proxies):
    meddler = Meddler(place.address)
    proxies.append(meddler)
    return meddler


@pytest.fixture
def met(place, meddler, sites):
    """Makes sites that nobody can dial meet there, each the others' neighbour, and may also be relayed."""

    def met(carriers=LinkKind):
        for name in SITES:
            others = [other for other in SITES if other != name]
            meeting = place.meeting(name, meddler.address)
            sites.add(name, others, others, carriers=carriers, listens=False, meeting=meeting)
        return sites

    return met


def are_met(sites):
    return all(set(observer.links.values()) == {LinkKind.MET} for observer in sites.observers.values())


@pytest.mark.parametrize("how", MEDDLES)
def test_what_it_does_to_sealed_bytes_changes_no_message_and_costs_none(met, meddler, how):
    sites = met(UNRELAYED)
    assert not any(sites.open().values())
    meddler.strike(how)
    with ThreadPoolExecutor(1) as pool:
        exchanging = pool.submit(exchange, sites, PAIRS, 20, numbered(70_000))
        assert comes_true(lambda: meddler.struck >= 3)
        meddler.strike("passes")
        assert exchanging.result() == []
    assert are_met(sites)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", SPEAKS)
def test_whatever_it_says_itself_sites_go_on_by_the_relay_and_come_back(met, meddler, how):
    sites = met()
    assert not any(sites.open().values())
    assert are_met(sites)
    assert exchange(sites, PAIRS, 5, numbered(70_000)) == []
    meddler.strike(how)
    assert exchange(sites, PAIRS, 20, numbered(70_000), start=5) == []
    assert comes_true(lambda: meddler.struck > 0)
    meddler.strike("passes")
    assert comes_true(lambda: are_met(sites))
    assert exchange(sites, PAIRS, 5, numbered(70_000), start=25) == []


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", [how for how in SPEAKS if how != "mixes"])
def test_where_there_is_no_relay_it_can_stop_a_run_and_no_more(met, meddler, how):
    meddler.strike(how)
    sites = met(UNRELAYED)
    failures = sites.open(timeout=2)
    assert all(isinstance(failure, LinkError) for failure in failures.values()), failures
    assert meddler.struck > 0
    assert not any(observer.links for observer in sites.observers.values())
