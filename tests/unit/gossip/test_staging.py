"""What can be told without a GPU of how vectors get to the host and back; tests/gpu has the rest."""

import pytest
import torch

from flaremesh.gossip import Gossip, gossip
from flaremesh.gossip.staging import DeviceStaging, HostStaging, bytes_of
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Wire

KIEL = Neighborhood("kiel", self_weight=0.5, in_weights={"bonn": 0.5}, out=("bonn",))
CPU = torch.device("cpu")


def joined(parts):
    (payloads,) = parts
    return b"".join(payloads)


@pytest.fixture
def device():
    return DeviceStaging(CPU)


def blob(*values):
    return torch.tensor(values, dtype=torch.uint8)


def test_host_memory_is_sent_and_received_without_a_copy():
    staging, encoded, payload = HostStaging(), blob(1, 2, 3), bytearray(b"abc")
    (sent,) = staging.download([encoded])
    received = staging.upload(bytes_of(memoryview(payload)))
    encoded[0], payload[0] = 7, 8
    assert (sent[0], int(received[0])) == (7, 8)


def test_bytes_that_may_not_be_written_are_copied():
    assert bytes_of(b"abc").tolist() == [97, 98, 99]


def test_what_was_downloaded_does_not_change_when_the_vector_does(device):
    encoded = [blob(1, 2), blob(3)]
    payloads = device.download(encoded)
    for tensor in encoded:
        tensor.zero_()
    assert [bytes(payload) for payload in payloads] == [b"\1\2", b"\3"]


def test_what_was_uploaded_does_not_change_when_the_links_use_their_buffer_again(device):
    message = blob(1, 2)
    uploaded = device.upload(message)
    message.zero_()
    assert uploaded.tolist() == [1, 2]


def test_staging_buffers_take_turns_and_none_is_used_before_it_has_left(device):
    payloads = [device.download([blob(1, 2, 3)])[0]]
    uploads = {device.upload(blob(4, 5, 6)).data_ptr() for _ in range(3)}
    assert len(uploads) == 3  # none may be taken again until the next download has waited for them
    payloads.append(device.download([blob(7, 8, 9)])[0])
    assert {device.upload(blob(4, 5, 6)).data_ptr()} <= uploads
    assert [bytes(payload) for payload in payloads] == [b"\1\2\3", b"\7\x08\x09"]


@pytest.mark.parametrize("wire", ["exact", "bfloat16", "float16", "int8", "top-k"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_site_with_a_staged_device_and_one_without_mix_alike(wire, clip, monkeypatch):
    plain = Gossip(Wire.of(wire), clip=clip)
    x = y = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    peer = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    sender, staged = Gossip(Wire.of(wire)), Gossip(Wire.of(wire), clip=clip)
    for _ in range(5):
        message = joined(sender.publish([peer]))
        joined(plain.publish([x]))
        with monkeypatch.context() as patch:
            patch.setattr(gossip, "staging_for", DeviceStaging)
            joined(staged.publish([y]))
        (x,), distance, *_ = plain.mix(KIEL, [{"bonn": message}])
        (y,), same, *_ = staged.mix(KIEL, [{"bonn": message}])
        assert torch.equal(x, y)
        assert distance == same
        sender.mix(KIEL, [{"bonn": message}])
