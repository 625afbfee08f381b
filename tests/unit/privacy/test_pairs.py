"""What two neighbours share that nobody else knows."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy import stats

from flaremesh.links import Key, LinkError
from flaremesh.links.inprocess import InProcessLink, inboxes
from flaremesh.privacy.pairs import Keystream, agree, normal, repeatable
from flaremesh.topology.neighborhood import Neighborhood

SITES = ["bonn", "jena", "ulm"]


def schedules(edges):
    """Those of sites that use each other's values along edges (from, to)."""
    return {
        site: [
            Neighborhood(
                site,
                0.5,
                {source: 0.5 for source, target in edges if target == site},
                tuple(target for source, target in edges if source == site),
            )
        ]
        for site in SITES
    }


def agreed(edges):
    boxes = inboxes(SITES)
    with ThreadPoolExecutor(len(SITES)) as pool:
        told = {
            site: pool.submit(agree, InProcessLink(site, boxes), schedule, 5.0)
            for site, schedule in schedules(edges).items()
        }
        return {site: secrets.result() for site, secrets in told.items()}


ONE_WAY = [("bonn", "jena"), ("jena", "ulm"), ("ulm", "bonn")]
BOTH_WAYS = [("bonn", "jena"), ("jena", "bonn"), ("jena", "ulm"), ("ulm", "jena")]


@pytest.mark.parametrize("edges", [ONE_WAY, BOTH_WAYS], ids=["one way", "both ways"])
def test_two_neighbours_share_a_secret_that_is_of_no_other_pair_and_of_no_other_run(edges):
    secrets, others = agreed(edges), agreed(edges)
    pairs = {frozenset(edge) for edge in edges}
    assert {frozenset((site, peer)) for site in SITES for peer in secrets[site]} == pairs
    assert all(secrets[site][peer] == secrets[peer][site] for site in SITES for peer in secrets[site])
    drawn = {secret for run in (secrets, others) for shared in run.values() for secret in shared.values()}
    assert len(drawn) == 2 * len(pairs)
    assert {len(secret) for secret in drawn} == {32}


def test_a_neighbours_part_of_another_length_is_refused_by_name():
    boxes = inboxes(SITES)
    InProcessLink("ulm", boxes).send("bonn", Key(-4, 0, "ulm"), [b"short"])
    with pytest.raises(LinkError, match="ulm sent 5 bytes, expected 32"):
        agree(InProcessLink("bonn", boxes), schedules([("ulm", "bonn")])["bonn"], 5.0)


def test_a_simulation_has_the_same_secrets_again_and_another_seed_others():
    sites = schedules(ONE_WAY)
    first = {site: repeatable(1, schedule) for site, schedule in sites.items()}
    assert first == {site: repeatable(1, schedule) for site, schedule in sites.items()}
    assert first["bonn"]["jena"] == first["jena"]["bonn"] != first["jena"]["ulm"]
    assert first["bonn"] != repeatable(2, sites["bonn"])


def test_a_keystream_goes_on_where_it_was_and_is_anothers_for_each_secret_and_label():
    whole, parts = bytearray(600_000), bytearray(600_000)
    Keystream(b"secret", "label").fill(memoryview(whole))
    in_turn = Keystream(b"secret", "label")
    in_turn.fill(memoryview(parts)[:77])
    in_turn.fill(memoryview(parts)[77:])
    assert whole == parts
    for secret, label in [(b"another", "label"), (b"secret", "another")]:
        Keystream(secret, label).fill(memoryview(parts))
        same = np.mean(np.frombuffer(whole, np.uint8) == np.frombuffer(parts, np.uint8))
        assert same == pytest.approx(1 / 256, rel=0.1)


@pytest.mark.parametrize("d", [1, 2, 100_001])
def test_normal_numbers_are_repeated_and_have_the_dtype_that_is_asked_for(d):
    drawn = normal(b"secret", "label", torch.zeros(d, dtype=torch.float32))
    assert drawn.shape == (d,)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, normal(b"secret", "label", torch.zeros(d)))
    assert not torch.equal(drawn, normal(b"secret", "another", torch.zeros(d)))


def test_normal_numbers_are_normal_and_independent_of_each_other():
    drawn = normal(b"secret", "label", torch.zeros(200_000, dtype=torch.float64)).numpy()
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(drawn[:100_000], drawn[100_000:])[0, 1]) < 0.02
