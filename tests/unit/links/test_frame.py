"""The frame parser takes any bytes: they are a frame of the run, or refused for a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaremesh.links.frame import (
    HEADER_BYTES,
    VERSION,
    Frame,
    FrameError,
    Kind,
    announced,
    pack,
    run_digest,
    unpack,
)

RUN = run_digest("run")
REASONS = {"malformed", "version", "run"}
UINT64, UINT32 = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def frames(draw):
    """Any frame that a site may send."""
    payload = draw(st.binary(max_size=64))
    offset = draw(st.integers(0, 2**63))
    return Frame(
        kind=draw(st.sampled_from(Kind)),
        sequence=draw(st.integers(1, 2**64 - 1)),
        acknowledged=draw(UINT64),
        iteration=draw(INT64),
        stage=draw(UINT32),
        offset=offset,
        total=draw(st.integers(offset + len(payload), 2**64 - 1)),
        payload=payload,
    )


def parsed(data):
    """The frame, or the reason why it is none; whatever else is raised is an error."""
    try:
        return unpack(data, RUN)
    except FrameError as error:
        return error.reason


def is_refused_or_consistent(data):
    frame = parsed(data)
    return (
        frame in REASONS
        if isinstance(frame, str)
        else (
            frame.kind in Kind
            and frame.offset + len(frame.payload) <= frame.total
            and not (frame.kind in (Kind.DATA, Kind.REPEAT) and frame.sequence == 0)
            and pack(frame, RUN) == data
        )
    )


@given(frames())
def test_a_frame_survives_the_wire(frame):
    data = pack(frame, RUN)
    assert unpack(data, RUN) == frame
    assert announced(memoryview(data)[:HEADER_BYTES]) == frame.total


@given(st.binary(max_size=3 * HEADER_BYTES))
def test_arbitrary_bytes_are_refused(data):
    assert parsed(data) == "malformed"


@given(st.binary(min_size=HEADER_BYTES - 14, max_size=2 * HEADER_BYTES), st.integers(0, 255))
def test_arbitrary_bytes_behind_a_good_start_are_refused_or_consistent(data, kind):
    data = pack(Frame(Kind.DATA, 1, 0, 0, 0, 0, 0, b""), RUN)[:5] + bytes([kind]) + RUN + data
    assert is_refused_or_consistent(data)


@given(frames(), st.data())
def test_a_changed_frame_is_refused_or_consistent(frame, draws):
    data = bytearray(pack(frame, RUN))
    for _ in range(draws.draw(st.integers(1, 4))):
        data[draws.draw(st.integers(0, len(data) - 1))] = draws.draw(st.integers(0, 255))
    assert is_refused_or_consistent(data)


@given(frames(), st.data())
def test_a_frame_cut_in_its_header_is_malformed(frame, draws):
    data = pack(frame, RUN)
    assert parsed(data[: draws.draw(st.integers(0, HEADER_BYTES - 1))]) == "malformed"


@given(frames(), st.text())
def test_a_frame_of_another_run_is_refused(frame, run_id):
    with pytest.raises(FrameError, match="run"):
        unpack(pack(frame, run_digest(f"not {run_id}")), RUN)


@given(frames(), st.integers(0, 255).filter(lambda version: version != VERSION))
def test_a_frame_of_another_version_is_refused(frame, version):
    data = bytearray(pack(frame, RUN))
    data[4] = version
    with pytest.raises(FrameError, match="version"):
        unpack(data, RUN)


@given(st.integers(1, 2**64 - 1), st.binary(min_size=1, max_size=64))
def test_a_piece_that_does_not_fit_its_message_is_malformed(offset, payload):
    frame = Frame(Kind.DATA, 1, 0, 0, 0, offset, min(offset + len(payload) - 1, 2**64 - 1), payload)
    assert parsed(pack(frame, RUN)) == "malformed"
