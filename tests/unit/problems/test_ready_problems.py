"""The problems that flaremesh brings along."""

import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from flaremesh.algorithms import create
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.digits import Digits
from flaremesh.problems.mnist import Mnist
from flaremesh.problems.partitions import classes_of, partition
from flaremesh.problems.protocol import SiteContext
from flaremesh.problems.two_moons import TwoMoons
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.simulate import Simulation
from flaremesh.topology.neighborhood import neighborhoods
from programs import lacking


def site(index=0, sites=4, seed=0, **options):
    return SiteContext(f"site{index}", index, sites, seed, **options)


def ring4():
    names = [f"site{i}" for i in range(4)]
    eye = np.eye(4)
    hoods = neighborhoods(names, (eye + np.roll(eye, 1, axis=0) + np.roll(eye, -1, axis=0)) / 3)
    return {name: [hood] for name, hood in hoods.items()}


@pytest.mark.parametrize("sites", [4, 5, 6, 9, 10, 13, 64])
def test_each_site_sees_two_or_three_classes_and_together_all_ten(sites):
    seen = [classes_of(index, sites) for index in range(sites)]
    assert {len(classes) for classes in seen} <= {2, 3}
    assert {label for classes in seen for label in classes} == set(range(10))


@pytest.mark.parametrize("sites", [1, 3, 4, 7, 64])
def test_every_image_belongs_to_exactly_one_site(sites):
    labels = np.random.default_rng(0).integers(10, size=1000)
    shares = partition(labels, sites)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(1000))
    for index, share in enumerate(shares):
        assert set(labels[share]) <= set(classes_of(index, sites))


def test_more_sites_than_images_are_refused():
    with pytest.raises(ValueError, match="20 samples are too few for 100 sites"):
        partition(np.arange(20) % 10, 100)


def test_gradient_tracking_teaches_all_ten_digits_to_sites_that_see_two_or_three():
    algorithm = create("gradient-tracking", stepsize=0.05)
    run = Simulation(ring4(), algorithm, Digits, RunOptions(iterations=500))
    run.run()
    least, _ = run.metric_ranges()["accuracy"]
    assert least > 0.95


def test_two_moons_are_told_apart():
    run = Simulation(ring4(), create("dgd", stepsize=0.5), TwoMoons, RunOptions(iterations=400))
    run.run()
    least, _ = run.metric_ranges()["accuracy"]
    assert least > 0.97


def test_sites_draw_their_own_moons_and_share_the_test():
    here, there = TwoMoons(site(0)), TwoMoons(site(1))
    x = here.initial()
    assert here.evaluate(x) == there.evaluate(x)
    assert here.loss_and_gradient(x)[0] != there.loss_and_gradient(x)[0]


def test_consensus_takes_the_value_of_its_site():
    values = {"site0": 2, "site1": [1.0, 3.0]}
    assert Consensus(site(0), values).initial().tolist() == [2]
    assert Consensus(site(1), values).initial().tolist() == [1, 3]
    with pytest.raises(ValueError, match="site2"):
        Consensus(site(2), values)


def test_random_consensus_values_differ_between_sites_and_are_reproducible():
    first = Consensus(site(0), dimension=3).initial()
    assert torch.equal(first, Consensus(site(0), dimension=3).initial())
    assert not torch.equal(first, Consensus(site(1), dimension=3).initial())


def test_gradient_descent_on_the_consensus_problem_finds_the_mean_too():
    run = Simulation(
        ring4(), create("gradient-tracking", stepsize=0.1), Consensus, RunOptions(iterations=400)
    )
    mean = run.mean
    run.run()
    torch.testing.assert_close(run.mean, mean)
    assert run.snapshots[-1].consensus_distance < 1e-10


def test_mnist_without_a_folder_says_what_to_give():
    with pytest.raises(ValueError, match="give the folder of the MNIST files"):
        Mnist(site())


def test_mnist_without_torchvision_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'flaremesh\[vision\]'"):
        Mnist(site(data_dir=tmp_path))


def needs_torchvision():
    if importlib.util.find_spec("torchvision") is None:
        lacking("torchvision is not installed", "make vision", ci_has_it=False)


def test_mnist_without_its_files_says_where_to_put_them(tmp_path):
    needs_torchvision()
    with pytest.raises(ValueError, match=r"put train-images-idx3-ubyte.*MNIST/raw"):
        Mnist(site(data_dir=tmp_path))


def write_idx(path, array):
    """The format of the MNIST files: two zero bytes, 8 for uint8, the rank, the shape, the bytes."""
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())


def test_mnist_files_become_a_problem_with_the_split_of_the_digits(tmp_path):
    needs_torchvision()
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    labels = np.arange(200, dtype=np.uint8) % 10
    images = np.zeros((200, 28, 28), dtype=np.uint8)
    images[np.arange(200), 4 + 2 * labels] = 255  # a bright row whose place tells the digit
    for name in ("train", "t10k"):
        write_idx(raw / f"{name}-images-idx3-ubyte", images)
        write_idx(raw / f"{name}-labels-idx1-ubyte", labels)
    run = Simulation(
        ring4(),
        create("gradient-tracking", stepsize=0.02),
        lambda context: Mnist(replace(context, data_dir=tmp_path), batch_size=100),
        RunOptions(iterations=60),
    )
    run.run()
    least, _ = run.metric_ranges()["accuracy"]
    assert least > 0.9
