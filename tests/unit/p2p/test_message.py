"""Values of `_exchange_values` on the wire."""

import datetime
import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from enum import Enum, IntEnum, StrEnum

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from flaremesh.p2p.message import decode, encode
from traced import peak_bytes

TORCH_DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]
FLAT, LIST, TUPLE, SET, FROZENSET, DICT, ORDERED_DICT = 64, 0, 1, 2, 3, 4, 5
NDARRAY, TENSOR, NUMPY_NUMBER, COMPLEX, BIG_INT, DATETIME = 6, 7, 8, 9, 10, 11
KINDS = [*range(13), *range(FLAT, FLAT + 7), 127]


def mark(kind, count, *parts):
    """A mark as it travels, and the values behind it."""
    return msgpack.packb(msgpack.ExtType(kind, struct.pack("<Q", count))) + b"".join(
        map(msgpack.packb, parts)
    )


def framed(structure, arrays=b""):
    """A message as it travels: length of the structure, the structure, from a multiple of 16 the arrays."""
    head = struct.pack("<Q", len(structure)) + structure
    return head + bytes(-len(head) % 16) + arrays


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(), max_size=20)
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | npst.arrays(
        npst.floating_dtypes(endianness="=") | npst.integer_dtypes(endianness="="),
        shape=(),
        elements={"allow_nan": False},
    ).map(lambda array: array[()])
)
keys = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
arrays = npst.arrays(
    dtype=npst.floating_dtypes()
    | npst.integer_dtypes()
    | npst.boolean_dtypes()
    | npst.complex_number_dtypes()
    | npst.datetime64_dtypes(),
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
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4).map(OrderedDict)
        | st.sets(keys, max_size=4)
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
        assert_same(list(actual), list(expected))
        assert_same(list(actual.values()), list(expected.values()))
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            assert_same(left, right)
    elif isinstance(expected, set | frozenset):
        assert actual == expected
        assert Counter(map(type, actual)) == Counter(map(type, expected))
    else:
        assert actual == expected


@settings(deadline=None, derandomize=True)  # the first call pays for imports
@given(values)
def test_what_is_sent_arrives_with_its_types(value):
    assert_same(decode(encode(value)), value)


@settings(deadline=None, derandomize=True)
@given(st.binary())
def test_bytes_of_a_stranger_are_a_value_or_a_value_error(data):
    decode_or_refuse(data)


@settings(deadline=None, derandomize=True)
@given(values, st.data())
def test_a_damaged_message_is_a_value_or_a_value_error(value, data):
    damaged = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


parts = st.lists(
    scalars.filter(
        lambda part: isinstance(part, bool | int | float | str | bytes) and not isinstance(part, np.generic)
    ).filter(lambda part: not isinstance(part, int) or -(2**63) <= part < 2**64)
    | st.sampled_from(
        ["float32", "<f8", "O", "V8", "nn", "Tensor", "bool", "|b1", 0, 1, 2, 1 << 40, 1 << 63, [], {}]
    )
    | st.builds(msgpack.ExtType, st.sampled_from(KINDS), st.binary(min_size=8, max_size=8)),
    max_size=6,
)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(0, 3) | st.integers(0, 2**64 - 1), parts), max_size=4
    ),
    st.binary(max_size=64),
)
def test_a_forged_structure_is_a_value_or_a_value_error(marks, content):
    structure = b"".join(
        mark(kind, count) + b"".join(msgpack.packb(part, unicode_errors="surrogatepass") for part in behind)
        for kind, count, behind in marks
    )
    decode_or_refuse(framed(structure, content))


@pytest.mark.parametrize(
    "data",
    [
        framed(mark(NDARRAY, 1, "O", 1), bytes(8)),
        framed(mark(NDARRAY, 1, "<f8", 3), bytes(8)),
        framed(mark(NDARRAY, 1, "<f8", 1), bytes(16)),
        framed(mark(NDARRAY, 1, "<f8", -1), bytes(8)),
        framed(mark(NDARRAY, 1, "<f8", True), bytes(8)),
        framed(mark(NDARRAY, 1, "<f8", 1.0), bytes(8)),
        framed(mark(NDARRAY, 70, "<f8", *[1] * 70), bytes(8)),
        framed(mark(NDARRAY, 2, "<f8", 0, (1 << 64) - 1)),
        framed(mark(NDARRAY, 1, "|b1", 1), b"\x02"),
        framed(mark(NDARRAY, 1 << 63, "<f8")),
        framed(mark(TENSOR, 1, "load", 1), bytes(8)),
        framed(mark(TENSOR, 1, "bool", 1), b"\x02"),
        framed(mark(TENSOR, 2, "float32", -1, 0)),
        framed(mark(TENSOR, 1, "float32", 1 << 40)),
        framed(mark(TENSOR, 2, "float32", 0, (1 << 64) - 1)),
        framed(mark(TENSOR, 1, [], 1), bytes(8)),
        framed(mark(NUMPY_NUMBER, 0, "<f8", bytes(4))),
        framed(mark(NUMPY_NUMBER, 0, "|b1", b"\x02")),
        framed(mark(NUMPY_NUMBER, 0, "O", bytes(8))),
        framed(mark(COMPLEX, 0, "1", 2)),
        framed(mark(BIG_INT, 0, "1")),
        framed(mark(DATETIME, 0, "yesterday")),
        framed(mark(DATETIME, 0, 7)),
        framed(mark(LIST, 2, 1)),
        framed(mark(LIST, (1 << 64) - 1, 1)),
        framed(mark(LIST + FLAT, 2, 1)),
        framed(mark(LIST + FLAT, (1 << 64) - 1, 1)),
        framed(mark(LIST + FLAT, 1) + mark(LIST, 0)),
        framed(mark(DICT + FLAT, 1, 1, 2)),
        framed(mark(12, 0)),
        framed(mark(DICT, 1) + mark(LIST, 0) + b"\x01"),
        framed(mark(DICT, 1, math.nan, 1)),
        framed(mark(DICT, 2, 1, 1, 1.0, 1)),
        framed(mark(ORDERED_DICT, 2, "a", 1, "a", 1)),
        framed(mark(DICT, 1) + mark(TENSOR, 1, "bool", 0) + b"\x01"),
        framed(mark(SET, 1) + mark(LIST, 0)),
        framed(mark(SET, 1) + mark(TUPLE, 1) + mark(LIST, 0)),
        framed(mark(SET + FLAT, 1, math.nan)),
        framed(mark(SET + FLAT, 2, True, 1)),
        framed(mark(FROZENSET, 1) + mark(SET, 0)),
        framed(msgpack.packb(msgpack.ExtType(LIST, b"\x00"))),
        framed(msgpack.packb(msgpack.Timestamp(1))),
        framed(mark(LIST, 1) + msgpack.packb(msgpack.Timestamp(1))),
        framed(mark(LIST + FLAT, 1) + msgpack.packb(msgpack.Timestamp(1))),
        framed(b"\xdd\xff\xff\xff\xff"),
        framed(b"\xdb\xff\xff\xff\xff"),
        framed(b"\x91" * 5000),
        framed(b"\x81\x90\x01"),
        framed(b"\x90"),
        framed(b"\x01\x01"),
        framed(b"\x01\xa5"),
        framed(b"\x01", bytes(16)),
        framed(b""),
        framed(msgpack.packb(1))[:-9],
        b"\xff" * 20,
        b"",
    ],
)
def test_a_malformed_message_is_a_value_error(data):
    with pytest.raises(ValueError, match="malformed message"):
        decode(data)


@pytest.mark.parametrize("kind", [LIST, TUPLE, SET, FROZENSET, DICT])
def test_nesting_of_what_is_received_has_a_limit(kind):
    with pytest.raises(ValueError, match="malformed message: more than 100 levels"):
        decode(framed(mark(kind, 1) * 5000))


def test_nesting_of_what_is_sent_has_the_same_limit():
    value = 1
    for _ in range(100):
        value = {1: value}
    assert_same(decode(encode(value)), value)
    with pytest.raises(TypeError, match=r"more than 100 lists.*_to_message"):
        encode([value])


def test_a_list_that_contains_itself_cannot_be_sent():
    endless = []
    endless.append(endless)
    with pytest.raises(TypeError, match="more than 100 lists"):
        encode(endless)


MANY = 5000


@pytest.mark.parametrize(
    "structure",
    [
        mark(LIST + FLAT, MANY) + b"\xc0" * MANY,
        mark(LIST + FLAT, MANY) + msgpack.packb("\U0001f600") * MANY,
        mark(LIST, MANY) + mark(LIST, 0) * MANY,
        mark(LIST, MANY) + mark(ORDERED_DICT, 0) * MANY,
        mark(LIST, MANY) + mark(SET + FLAT, 5, 1, 2, 3, 4, 5) * MANY,
        mark(LIST, MANY) + mark(NDARRAY, 1, "|b1", 0) * MANY,
        mark(LIST, MANY) + mark(TENSOR, 1, "bool", 0) * MANY,
        mark(LIST, MANY) + mark(NUMPY_NUMBER, 0, "|b1", b"\x01") * MANY,
        mark(LIST, (1 << 64) - 1) * 99 + bytes(MANY),
        mark(LIST + FLAT, (1 << 63) - 1) + bytes(MANY),
        bytes(10) + b"\xdd\xff\xff\xff\xff" * MANY,
        b"\xdf\xff\xff\xff\xff" * MANY,
        b"\xdb\xff\xff\xff\xff" * MANY,
    ],
)
def test_a_message_takes_a_bounded_multiple_of_its_length(structure):
    data = framed(structure)
    # and what a decoder has in any case
    assert peak_bytes(lambda: decode_or_refuse(data)) < 64 * len(data) + 100_000


def test_the_reason_does_not_repeat_the_whole_message():
    with pytest.raises(ValueError, match="malformed message") as refused:
        decode(framed(mark(DATETIME, 0, "x" * 100_000)))
    assert len(str(refused.value)) < 300


def test_keys_chosen_to_make_a_dict_slow_are_refused():
    colliding = b"".join(
        mark(BIG_INT, 0, (i * (2**61 - 1)).to_bytes(16, "little", signed=True)) + b"\x01" for i in range(5000)
    )
    with pytest.raises(ValueError, match="slow"):
        decode(framed(mark(DICT, 5000) + colliding))


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


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    HIGH = 1


class Word(StrEnum):
    YES = "yes"


class Name(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (object(), "object"),
        (len, "builtin_function_or_method"),
        ({"f": print}, "builtin_function_or_method"),
        (np.array([None]), "ndarray of dtype object"),
        (np.array(["text"]), "ndarray of dtype <U4"),
        (np.zeros(2, dtype="i4,f4"), "ndarray of dtype"),
        (np.zeros(2, dtype="i4,f4")[0], "void of dtype"),
        (np.ma.masked_array([1, 2], mask=[0, 1]), "MaskedArray"),
        (torch.eye(2).to_sparse(), "Tensor that is torch.sparse_coo"),
        (torch.ones(2, device="meta"), "Tensor that is on the meta device"),
        (torch.nn.Linear(1, 1), "Linear"),
        (torch.nn.Linear(1, 1).parameters(), "generator"),
        (torch.float32, "dtype"),
        (range(3), "range"),
        (deque([1]), "deque"),
        (Point(1, 2), "Point"),
        (Colour.RED, "Colour"),
        (Level.HIGH, "Level"),
        ([1.0, Level.HIGH], "Level"),
        (Word.YES, "Word"),
        ({Word.YES: 1}, "dict with the key"),
        (datetime.date(2026, 1, 1), "date"),
        ({math.nan: 1}, "dict with the key nan"),
        ({(1, math.nan): 1}, r"dict with the key \(1, nan\)"),
        ({torch.ones(1): 1}, "dict with the key tensor"),
        ({math.nan}, "set whose members"),
        ({Colour.RED}, "set whose members"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_name(value, name):
    with pytest.raises(TypeError, match=f"cannot send a {name}.*; convert it in _to_message"):
        encode(value)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64, torch.complex32]
)
def test_tensors_of_young_dtypes_travel(dtype):
    tensor = torch.arange(16, dtype=torch.uint8).view(dtype)
    received = decode(encode(tensor))
    assert received.dtype == dtype
    assert received.view(torch.uint8).tolist() == list(range(16))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(12.0)[::3],
        torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.tensor([1 + 2j, 3j]).conj(),
        torch.tensor([1j]).conj().imag,
        torch.ones(1).expand(3, 4),
        torch.tensor(7),
        torch.zeros(0, 3),
    ],
)
def test_a_tensor_travels_whatever_its_place_in_memory(tensor):
    assert_same(decode(encode(tensor)), tensor)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3).T,
        np.arange(9)[::-2],
        np.arange(9.0)[::2][1:2],
        np.arange(3, dtype=">i4"),
        np.array(1.0),
        np.zeros((0, 3)),
    ],
)
def test_an_array_travels_whatever_its_place_in_memory(array):
    assert_same(decode(encode(array)), array)


@pytest.mark.parametrize(
    "value",
    [
        [float(i) for i in range(100_000)],
        list(range(2**62, 2**62 + 100_000)),
        {(i, str(i)): None for i in range(70_000)},
        set(range(70_000)),
        tuple(range(70_000)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_length_has_no_limit(value):
    assert_same(decode(encode(value)), value)


@pytest.mark.parametrize("text", ["", "\x00", "\ud800 alone", "\U0001f600", "e\u0301"])
def test_every_text_travels(text):
    assert_same(decode(encode([text, {text: text}])), [text, {text: text}])


def test_numbers_of_one_hash_are_keys_like_others():
    value = {2.0**k: k for k in range(-1074, 1024)}
    assert_same(decode(encode(value)), value)


def test_a_state_dict_arrives_as_one():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    received = decode(encode(model.state_dict()))
    assert type(received) is OrderedDict
    assert_same(received, OrderedDict(model.state_dict()))
    model.load_state_dict(received)


@pytest.mark.parametrize(
    ("value", "received"),
    [
        (defaultdict(list, a=[1]), {"a": [1]}),
        (torch.Size([1, 2]), (1, 2)),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (np.str_("x"), "x"),
        (Name("x"), "x"),
        ({Name("x"): Name("x")}, {"x": "x"}),
        (np.bytes_(b"x"), b"x"),
    ],
)
def test_classes_of_plain_values_arrive_as_the_plain_value(value, received):
    assert_same(decode(encode(value)), received)


def test_parameters_that_need_a_gradient_are_sent_by_value():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    received = decode(encode([parameter]))[0]
    assert received.tolist() == [1, 2]
    assert not received.requires_grad


def test_numpy_numbers_keep_their_type():
    assert_same(
        decode(encode([np.float32(1.5), np.int64(3), np.True_, np.float64(0.5)])),
        [np.float32(1.5), np.int64(3), np.True_, np.float64(0.5)],
    )
