"""What wires cost in computing, as an agent tells."""

import sys
from typing import get_args

import pytest

from flaremesh.p2p import costs
from flaremesh.p2p.costs import COSTS, measured
from flaremesh.record import RecordError
from flaremesh.topology.schema import WireEncoding


def test_every_wire_has_its_cost():
    found = COSTS.read(measured(), "the test")
    assert found.keys() == set(get_args(WireEncoding))
    for cost in found.values():
        assert 0 < cost.mix + cost.decode < 1e-6
    # an exact vector is sent from where it is, a compressed one is written anew
    assert found["exact"].encode < found["int8"].encode


def test_a_machine_that_cannot_find_it_out_tells_no_wires(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert measured() == b"{}"


def test_one_that_takes_too_long_tells_no_wires(monkeypatch):
    monkeypatch.setattr(costs, "_SECONDS", 0.01)
    assert measured() == b"{}"


@pytest.mark.parametrize("told", [b"", b"[]", b'{"exact": {"mix": -1}}', b'{"exact": {"mix": 1e9}}'])
def test_what_no_machine_can_tell_is_refused(told):
    with pytest.raises(RecordError):
        COSTS.read(told, "the test")
