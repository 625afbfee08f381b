"""Vectors on a GPU: the same numbers as on the CPU, staged in pinned memory, and hardly ever waited for."""

import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from flaremesh.algorithms import create
from flaremesh.gossip import Gossip
from flaremesh.gossip.staging import DeviceStaging
from flaremesh.links.inprocess import InProcessLink, inboxes
from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.history import History
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.site_run import SiteRun
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Wire

pytestmark = pytest.mark.gpu

GPU = "cuda"
BONN = Neighborhood("bonn", self_weight=0.5, in_weights={"kiel": 0.5}, out=("kiel",))
KIEL = Neighborhood("kiel", self_weight=0.5, in_weights={"bonn": 0.5}, out=("bonn",))
WIRES = ["exact", "bfloat16", "float16", "int8", "top-k"]


def vector(seed, length=200_003):
    return torch.randn(length, generator=torch.Generator().manual_seed(seed))


def joined(parts):
    (payloads,) = parts
    return b"".join(payloads)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("clip", [None, 100.0])
def test_a_site_on_a_gpu_and_one_on_the_cpu_mix_as_two_on_the_cpu_do(wire, clip):
    gpu, cpu, one, two = (Gossip(Wire.of(wire), clip=clip) for _ in range(4))
    x, y = vector(0).to(GPU), vector(1)
    a, b = vector(0), vector(1)
    for _ in range(20):
        to_cpu, to_gpu = (joined(gossip.publish([v])) for gossip, v in ((gpu, x), (cpu, y)))
        (x,), distance, *_ = gpu.mix(BONN, [{"kiel": to_gpu}])
        (y,), *_ = cpu.mix(KIEL, [{"bonn": to_cpu}])
        to_two, to_one = (joined(gossip.publish([v])) for gossip, v in ((one, a), (two, b)))
        (a,), expected, *_ = one.mix(BONN, [{"kiel": to_one}])
        (b,), *_ = two.mix(KIEL, [{"bonn": to_two}])
        assert float(distance) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    torch.testing.assert_close(x.cpu() + y, a + b, rtol=0, atol=1e-4)
    torch.testing.assert_close(y, b, rtol=0, atol=1e-2)


@pytest.mark.parametrize("wire", ["int8", "top-k"])
def test_public_copies_are_the_same_on_both_kinds_of_device_to_the_last_bit(wire):
    gpu, cpu = Gossip(Wire.of(wire)), Gossip(Wire.of(wire))
    x, y = vector(0).to(GPU), vector(1)
    for _ in range(20):
        to_cpu, to_gpu = (joined(gossip.publish([v])) for gossip, v in ((gpu, x), (cpu, y)))
        ((x,), *_), ((y,), *_) = gpu.mix(BONN, [{"kiel": to_gpu}]), cpu.mix(KIEL, [{"bonn": to_cpu}])
    here, there = (gossip.snapshot()[0] for gossip in (gpu, cpu))
    assert torch.equal(here[""].cpu(), there["bonn"])
    assert torch.equal(here["kiel"].cpu(), there[""])


def test_what_is_sent_lies_in_pinned_memory_that_is_used_again():
    staging = DeviceStaging(torch.device(GPU))
    addresses = set()
    for value in range(5):
        (payload,) = staging.download([torch.full((1_000_000,), value, dtype=torch.uint8, device=GPU)])
        tensor = torch.frombuffer(payload, dtype=torch.uint8)
        assert tensor.is_pinned()
        assert bool((tensor == value).all())
        addresses.add(tensor.data_ptr())
        del payload, tensor
    assert len(addresses) == 1


def test_what_is_sent_is_complete_though_the_gpu_was_busy():
    staging, x = DeviceStaging(torch.device(GPU)), torch.zeros(1 << 24, device=GPU)
    for _ in range(200):
        x += 1
    (payload,) = staging.download([x.view(torch.uint8)])
    x.zero_()
    assert bool((torch.frombuffer(payload, dtype=torch.float32) == 200).all())


def test_what_was_received_is_there_before_the_gpu_uses_it():
    staging = DeviceStaging(torch.device(GPU))
    for value in range(20):
        message = torch.full((1 << 24,), value, dtype=torch.uint8)
        uploaded = staging.upload(message)
        message.fill_(255)
        assert int(uploaded.max()) == int(uploaded.min()) == value


def run_of(wire, algorithm):
    """A site whose neighbour answers with what it gets."""

    class Echo(InProcessLink):
        def send(self, peer, key, buffers):
            super().send("bonn", key._replace(sender="kiel"), buffers)

    inputs = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    batches = Batches(inputs.to(GPU), inputs.to(GPU))
    site = SiteContext("bonn", index=0, sites=2, seed=0)
    problem = ModuleProblem(site, lambda: nn.Linear(64, 64), mse_loss, batches, device=GPU)
    link, options = Echo("bonn", inboxes(["bonn"])), RunOptions(10**6, evaluate_every=10**6, wire=wire)
    return SiteRun(create(algorithm, stepsize=0.1), problem, [BONN], link, History(), options)


@contextmanager
def synchronizations():
    """The warnings of torch about everything for which the host waits for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("algorithm", ["dgd", "gradient-tracking", "gtadam"])
def test_the_loop_reads_from_the_gpu_once_an_iteration(wire, algorithm):
    run = run_of(wire, algorithm)
    run.iterate(0)
    with synchronizations() as caught:
        for iteration in range(1, 11):
            run.iterate(iteration)
    waits = [str(warning.message) for warning in caught if "called a synchronizing" in str(warning.message)]
    assert len(waits) <= 10


@pytest.mark.parametrize("wire", WIRES)
def test_a_model_on_a_gpu_learns(wire):
    run = run_of(wire, "dgd")
    run.iterate(0)
    for iteration in range(1, 300):
        run.iterate(iteration)
    first, last = run._sink.iterations[0], run._sink.iterations[-1]
    assert last.loss < 0.9 * first.loss
