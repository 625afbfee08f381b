"""How samples are divided between sites."""

import numpy as np
import pytest

from flaremesh.problems.digits import Digits
from flaremesh.problems.partitions import partition, share_of
from flaremesh.problems.protocol import SiteContext

LABELS = np.random.default_rng(1).integers(10, size=2000)
KINDS = ["iid", "shards", "dirichlet", "quantity", "classes"]


def skew(shares):
    """How much the classes of a site differ from all, on the average: 0 to 2."""
    whole = np.bincount(LABELS, minlength=10) / len(LABELS)
    each = [np.bincount(LABELS[share], minlength=10) / len(share) for share in shares]
    return float(np.mean([np.abs(own - whole).sum() for own in each]))


def spread(shares):
    """How many times more samples the largest site has than the smallest."""
    sizes = [len(share) for share in shares]
    return max(sizes) / min(sizes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sites", [1, 4, 8, 23])
def test_every_sample_belongs_to_exactly_one_site_and_no_site_goes_without(kind, sites):
    shares = partition(LABELS, sites, kind)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(len(LABELS)))
    assert all(map(len, shares))


@pytest.mark.parametrize("kind", KINDS)
def test_all_sites_come_to_the_same_shares_of_a_seed(kind):
    one, same, other = (partition(LABELS, 5, kind, seed=seed) for seed in (3, 3, 4))
    assert all(map(np.array_equal, one, same))
    assert kind == "classes" or not all(map(np.array_equal, one, other))


def test_the_classes_of_iid_sites_are_alike_and_those_of_shards_and_classes_are_not():
    assert skew(partition(LABELS, 8, "iid")) < 0.3 < 1 < skew(partition(LABELS, 8, "shards"))
    assert skew(partition(LABELS, 8, "classes")) > 1


def test_a_smaller_alpha_makes_sites_more_unlike():
    assert skew(partition(LABELS, 8, "dirichlet", alpha=0.1)) > 0.9
    assert skew(partition(LABELS, 8, "dirichlet", alpha=100.0)) < 0.3


def test_quantity_skew_makes_sizes_differ_and_classes_alike():
    shares = partition(LABELS, 4, "quantity", alpha=1.0, seed=2)
    assert spread(shares) > 2
    assert skew(shares) < 0.3


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "random"}, "there are iid, shards, dirichlet, quantity, classes"),
        ({"kind": "iid", "alpha": 1}, "of the kind iid has no such parameter"),
        ({"kind": "dirichlet", "alpha": 0}, "alpha must be positive"),
        ({"kind": "dirichlet", "alpha": "0.3"}, "alpha must be positive"),
        ({"kind": "shards", "shards": 0}, "shards must be a whole number"),
    ],
)
def test_what_is_no_partition_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        Digits(SiteContext("site", 0, 4, 0), partition=how)


def test_a_sites_share_is_its_place_in_the_partition_with_the_seed_of_the_run():
    site = SiteContext("site", index=2, sites=4, seed=7)
    assert np.array_equal(share_of(site, LABELS, {"kind": "iid"}), partition(LABELS, 4, "iid", seed=7)[2])
    assert np.array_equal(
        share_of(site, LABELS, {"kind": "iid", "seed": 1}), partition(LABELS, 4, "iid", seed=1)[2]
    )
    assert np.array_equal(share_of(site, LABELS, None), partition(LABELS, 4)[2])


def test_no_sample_of_many_classes_is_left_out():
    labels = np.arange(400) % 20
    shares = partition(labels, 4)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(400))
