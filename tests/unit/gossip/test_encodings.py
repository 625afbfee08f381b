"""Vectors as bytes: their size, their accuracy, and what is refused."""

import math

import pytest
import torch

from flaremesh.gossip.encodings import RANKED, SCALED, encoding_of, message_bytes
from flaremesh.gossip.mixing import BLOCK, Workspace, entries_of
from flaremesh.topology.schema import Wire

LENGTHS = [1, 5, SCALED, SCALED + 1, RANKED + 7, BLOCK, 2 * BLOCK + RANKED + 3]
LOSSY = ["bfloat16", "float16", "int8", "top-k"]


def encoded(vector, wire):
    encoding = encoding_of(Wire.of(wire), vector.dtype)
    # what a pool hands out is not blank
    work = Workspace(vector, lambda n, dtype: torch.full((n,), 77, dtype=dtype))
    return encoding.encode(entries_of(vector), len(vector), work)


def decoded(data, length, dtype, wire):
    encoding = encoding_of(Wire.of(wire), dtype)
    encoding.check(data, length)
    blocks, vector = encoding.decode(data, length), torch.full((length,), math.nan, dtype=dtype)
    work = Workspace(vector, torch.empty)
    for start, stop in work.spans(length):
        vector[start:stop] = blocks(start, stop, work.scratch[0])
    return vector


def through(vector, wire):
    return decoded(encoded(vector, wire), len(vector), vector.dtype, wire)


def vector_of(length, dtype=torch.float32):
    """Entries of very different magnitudes."""
    generator = torch.Generator().manual_seed(length)
    magnitudes = 10 ** torch.empty(length, dtype=dtype).uniform_(-6, 3, generator=generator)
    return magnitudes * torch.empty(length, dtype=dtype).uniform_(-1, 1, generator=generator)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wire", ["exact", "float32", *LOSSY])
def test_the_size_is_what_the_plan_says_and_what_is_sent(wire, dtype, length):
    vector = vector_of(length, dtype)
    assert len(encoded(vector, wire)) == message_bytes(Wire.of(wire), [vector])


@pytest.mark.parametrize(
    ("wire", "bytes_per_entry"),
    [
        ("exact", 4),
        ("float32", 4),
        ("bfloat16", 2),
        ("float16", 2 + 4 / 1024),
        ("int8", 1 + 4 / 1024),
        ({"encoding": "top-k", "fraction": 0.01}, 0.01 * 6),
    ],
)
def test_an_entry_of_float32_takes_the_bytes_that_the_documentation_says(wire, bytes_per_entry):
    length = 10_000_000
    size = encoding_of(Wire.of(wire), torch.float32).size(length)
    assert size == pytest.approx(bytes_per_entry * length, rel=1e-3)


def test_an_exact_vector_is_not_copied():
    vector = torch.rand(7)
    assert encoded(vector, "exact").data_ptr() == vector.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wire", ["float32", "bfloat16", "float16"])
def test_a_vector_is_never_widened_nor_rounded_without_gain(wire, dtype):
    vector = vector_of(100).to(dtype)
    narrower = getattr(torch, wire).itemsize < dtype.itemsize
    assert torch.equal(through(vector, wire), vector) == (not narrower)


@pytest.mark.parametrize("length", LENGTHS)
def test_bfloat16_keeps_eight_bits_of_every_entry(length):
    vector = vector_of(length)
    torch.testing.assert_close(through(vector, "bfloat16"), vector, rtol=2**-8, atol=0)


def blocks_of(vector):
    return [vector[i : i + SCALED] for i in range(0, len(vector), SCALED)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_float16_keeps_eleven_bits_at_any_scale(factor, length):
    vector = factor * vector_of(length)
    for block, original in zip(blocks_of(through(vector, "float16")), blocks_of(vector), strict=True):
        # below 2^-30 of the greatest, half precision has no more bits
        torch.testing.assert_close(block, original, rtol=2**-11, atol=2**-40 * float(original.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", LENGTHS)
def test_int8_errs_by_half_a_step_of_its_block_at_most(length, dtype):
    vector = vector_of(length, dtype)
    for block, original in zip(blocks_of(through(vector, "int8")), blocks_of(vector), strict=True):
        step = float(original.abs().max()) / 127
        assert (block - original).abs().max() <= 0.5001 * step


@pytest.mark.parametrize("wire", LOSSY)
@pytest.mark.parametrize("value", [0.0, 1e-44, 1e-38, 3e38])
def test_a_constant_vector_of_any_magnitude_survives(wire, value):
    vector = torch.full((SCALED + 3,), value)
    # below the smallest normal number only zero is left of int8's and float16's scales
    torch.testing.assert_close(
        through(vector, {"encoding": wire, "fraction": 1.0} if wire == "top-k" else wire),
        vector,
        rtol=2**-8,
        atol=1e-38,
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("fraction", [0.001, 0.1, 1.0])
def test_top_k_keeps_the_greatest_entries_as_they_are_and_drops_the_others(fraction, length):
    vector = vector_of(length)
    kept = through(vector, {"encoding": "top-k", "fraction": fraction})
    for start in range(0, length, RANKED):
        row, original = kept[start : start + RANKED], vector[start : start + RANKED]
        chosen = row != 0
        assert int(chosen.sum()) == math.ceil(fraction * len(original))
        assert torch.equal(row[chosen], original[chosen])
        if not chosen.all():
            assert original[chosen].abs().min() >= original[~chosen].abs().max()


@pytest.mark.parametrize("wire", LOSSY)
def test_what_lies_between_two_vectors_in_a_message_is_blank(wire):
    data = encoded(torch.ones(1), wire)
    assert len(data) == 8
    assert data[6:].tolist() == [0, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("wire", "words"), [("int8", "a scale"), ("float16", "a scale"), ("top-k", "an entry")]
)
def test_a_message_that_is_not_finite_is_refused_where_a_copy_would_never_recover(wire, words, value):
    vector = torch.ones(RANKED + 5)
    vector[-1] = value
    with pytest.raises(ValueError, match=f"{words} that is not finite"):
        through(vector, wire)


@pytest.mark.parametrize("length", [5, RANKED + 5])
def test_a_place_beyond_the_end_is_refused(length):
    vector = torch.ones(length)
    wire = {"encoding": "top-k", "fraction": 1.0}
    data = encoded(vector, wire)
    places = data[length * 4 : length * 6].view(torch.int16)
    places[-1] = 5
    with pytest.raises(ValueError, match="an entry beyond the end"):
        decoded(data, length, vector.dtype, wire)
