"""Values of `_exchange_values` on the wire."""

import struct

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from flaremesh.p2p.message import decode, encode

TORCH_DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


def framed(structure, arrays=b""):
    """A message as it travels: length of the structure, the structure, from a multiple of 16 the arrays."""
    head = struct.pack("<Q", len(structure)) + structure
    return head + bytes(-len(head) % 16) + arrays


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
arrays = npst.arrays(
    dtype=npst.floating_dtypes()
    | npst.integer_dtypes()
    | npst.boolean_dtypes()
    | npst.complex_number_dtypes(),
    shape=npst.array_shapes(min_dims=0, min_side=0, max_side=4),
)
tensors = st.builds(
    lambda dtype, shape, seed: (100 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))).to(
        dtype
    ),
    st.sampled_from(TORCH_DTYPES),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 2**32),
)
values = st.recursive(
    scalars | arrays | tensors,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


def assert_same(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        assert_same(list(actual.values()), list(expected.values()))
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            assert_same(left, right)
    else:
        assert actual == expected


@settings(deadline=None)  # the first call pays for imports
@given(values)
def test_what_is_sent_arrives_with_its_types(value):
    assert_same(decode(encode(value)), value)


@settings(deadline=None)
@given(st.binary())
def test_bytes_of_a_stranger_are_a_value_or_a_value_error(data):
    decode_or_refuse(data)


@settings(deadline=None)
@given(values, st.data())
def test_a_damaged_message_is_a_value_or_a_value_error(value, data):
    damaged = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


array_parts = st.lists(
    scalars | st.lists(scalars, max_size=3) | st.sampled_from(["float32", "<f8", "O", "V8", "nn", "Tensor"]),
    max_size=4,
)


@settings(deadline=None)
@given(st.integers(0, 127), st.binary() | array_parts.map(msgpack.packb))
def test_a_forged_array_is_a_value_or_a_value_error(code, content):
    decode_or_refuse(framed(msgpack.packb(msgpack.ExtType(code, content)), bytes(64)))


@pytest.mark.parametrize(
    "data",
    [
        framed(msgpack.packb(msgpack.ExtType(1, msgpack.packb(["O", [1], 0, 8]))), bytes(8)),
        framed(msgpack.packb(msgpack.ExtType(1, msgpack.packb(["<f8", [3], 0, 8]))), bytes(8)),
        framed(msgpack.packb(msgpack.ExtType(1, msgpack.packb(["<f8", [1], 8, 8]))), bytes(8)),
        framed(msgpack.packb(msgpack.ExtType(1, msgpack.packb(["<f8", [1], -8, 8]))), bytes(8)),
        framed(msgpack.packb(msgpack.ExtType(1, msgpack.packb(["<f8", [1], 8, -8]))), bytes(8)),
        framed(msgpack.packb(msgpack.ExtType(2, msgpack.packb(["load", [1], 0, 8]))), bytes(8)),
        framed(msgpack.packb(msgpack.ExtType(2, msgpack.packb(["float32", [-1, 0], 0, 0])))),
        framed(msgpack.packb(msgpack.ExtType(2, msgpack.packb(["float32", [1 << 40], 0, 0])))),
        framed(msgpack.packb(msgpack.ExtType(2, msgpack.packb(["float32", [1], 0, 1 << 40])))),
        framed(msgpack.packb(msgpack.ExtType(3, msgpack.packb(7)))),
        framed(b"\xdd\xff\xff\xff\xff"),
        framed(b"\x91" * 5000),
        framed(b"\x81\x90\x01"),
        framed(b""),
        framed(msgpack.packb(1))[:-9],
        b"\xff" * 20,
        b"",
    ],
)
def test_a_malformed_message_is_a_value_error(data):
    with pytest.raises(ValueError, match="malformed message"):
        decode(data)


def test_tuples_in_tuples_have_a_limit():
    data = msgpack.packb(1)
    for _ in range(5000):
        data = msgpack.packb(msgpack.ExtType(3, b"\x91" + data))
    with pytest.raises(ValueError, match="malformed message"):
        decode(framed(data))


def decode_or_refuse(data):
    try:
        decode(data)
    except ValueError:
        return


def test_bfloat16_tensors_travel():
    tensor = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    assert_same(decode(encode({"x": tensor})), {"x": tensor})


@pytest.mark.parametrize("value", [torch.ones(3), np.ones(3)], ids=["tensor", "array"])
def test_a_message_holds_the_values_at_the_time_it_was_made(value):
    message = encode([value])
    value *= 7
    (received,) = decode(message)
    assert received.tolist() == [1, 1, 1]


def test_received_arrays_belong_to_the_receiver():
    message = encode([np.ones(2), torch.ones(2)])
    for array in decode(message):
        array *= 2
    assert decode(message)[0].tolist() == [1, 1]


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([None]), np.array(["text"]), len, {"f": print}])
def test_only_plain_data_can_be_sent(value):
    with pytest.raises(TypeError, match="convert it in _to_message"):
        encode(value)


def test_parameters_that_need_a_gradient_are_sent_by_value():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    received = decode(encode([parameter]))[0]
    assert received.tolist() == [1, 2]
    assert not received.requires_grad


def test_numpy_numbers_arrive_as_plain_numbers():
    assert_same(decode(encode([np.float32(1.5), np.int64(3), np.True_])), [1.5, 3, True])
