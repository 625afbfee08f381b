"""The parsers of greetings and headers take any bytes: they are of the run, or refused for a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaremesh.links import Refusal
from flaremesh.links.frame import (
    GREETING_BYTES,
    HEADER_BYTES,
    VERSION,
    Frame,
    FrameError,
    Greeting,
    Kind,
    Word,
    announced,
    pack,
    pack_greeting,
    run_digest,
    unpack,
    unpack_greeting,
)

RUN = run_digest("run")
UINT64, UINT32, UINT16 = (st.integers(0, 2**bits - 1) for bits in (64, 32, 16))
INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def frames(draw):
    """Any header that a site may send."""
    kind = draw(st.sampled_from(Kind))
    told = draw(UINT64), draw(UINT64)
    if kind is not Kind.DATA:
        return Frame(kind, 0, *told, draw(INT64), draw(UINT32), 0, draw(UINT16))
    number, exchange = draw(st.integers(1, 2**64 - 1)), (draw(INT64), draw(UINT32))
    return Frame(kind, number, *told, *exchange, draw(UINT64), draw(UINT16))


REASONS = st.text("abcdefghijklmnopqrstuvwxyz", max_size=16)


@st.composite
def greetings(draw):
    """Any greeting that a site may send."""
    return Greeting(word=draw(st.sampled_from(Word)), received=draw(UINT64), reason=draw(REASONS))


def parsed(parse, data, *given):
    """What the bytes say, or why they say nothing; whatever else is raised is an error."""
    try:
        return parse(data, *given)
    except FrameError as error:
        return error.reason


def changed(draws, data):
    """The same bytes but for one to four of them."""
    data = bytearray(data)
    for _ in range(draws.draw(st.integers(1, 4))):
        data[draws.draw(st.integers(0, len(data) - 1))] = draws.draw(st.integers(0, 255))
    return data


# headers


@given(frames(), st.binary(max_size=10))
def test_a_header_survives_the_wire(frame, before):
    data = pack(frame)
    assert len(data) == HEADER_BYTES
    assert unpack(data) == frame
    assert announced(memoryview(before + data), len(before)) == frame.length


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_arbitrary_bytes_are_malformed_or_a_header(data):
    frame = parsed(unpack, data)
    assert frame is Refusal.MALFORMED or pack(frame) == data


@given(st.binary(min_size=HEADER_BYTES - 4, max_size=HEADER_BYTES - 4), st.sampled_from(Kind))
def test_arbitrary_bytes_after_a_kind_are_malformed_or_a_header(data, kind):
    frame = parsed(unpack, kind.to_bytes(4, "little") + data)
    assert frame is Refusal.MALFORMED or (frame.kind is kind and pack(frame)[4:] == data)


@given(frames(), st.data())
def test_a_changed_header_is_malformed_or_consistent(frame, draws):
    frame = parsed(unpack, changed(draws, pack(frame)))
    if frame is not Refusal.MALFORMED:
        assert frame.kind in Kind
        assert (frame.sequence > 0) == (frame.kind is Kind.DATA)
        assert frame.length == 0 or frame.kind is Kind.DATA


@pytest.mark.parametrize("kind", Kind)
def test_numbers_and_lengths_belong_to_messages_alone(kind):
    is_message = kind is Kind.DATA
    for frame in (Frame(kind, 1 - is_message, 0, 0), Frame(kind, 0, 0, 0, length=1)):
        assert parsed(unpack, pack(frame)) is Refusal.MALFORMED
    assert unpack(pack(Frame(kind, int(is_message), 0, 0))).kind is kind


# greetings


@given(greetings())
def test_a_greeting_survives_the_wire(greeting):
    data = pack_greeting(greeting, RUN)
    assert len(data) == GREETING_BYTES
    assert unpack_greeting(data, RUN) == greeting


@given(st.binary(min_size=GREETING_BYTES, max_size=GREETING_BYTES))
def test_arbitrary_bytes_are_no_greeting(data):
    assert parsed(unpack_greeting, data, RUN) is Refusal.MALFORMED


@given(greetings(), st.data())
def test_a_changed_greeting_is_refused_or_consistent(greeting, draws):
    heard = parsed(unpack_greeting, changed(draws, pack_greeting(greeting, RUN)), RUN)
    if isinstance(heard, Greeting):
        assert heard.word in Word
        assert heard.reason.isprintable()
        assert heard.reason.isascii()
    else:
        assert heard in (Refusal.MALFORMED, Refusal.VERSION, Refusal.RUN)


@given(greetings().filter(lambda greeting: greeting.word is not Word.REFUSED), st.text())
def test_a_greeting_of_another_run_is_refused(greeting, run_id):
    data = pack_greeting(greeting, run_digest(f"not {run_id}"))
    assert parsed(unpack_greeting, data, RUN) is Refusal.RUN


@given(REASONS, st.text())
def test_a_refusal_is_understood_whatever_run_it_comes_from(reason, run_id):
    """Whose run is another one could not say so otherwise."""
    data = pack_greeting(Greeting(Word.REFUSED, reason=reason), run_digest(run_id))
    assert unpack_greeting(data, RUN).reason == reason


@given(greetings(), st.integers(0, 255).filter(lambda version: version != VERSION))
def test_a_greeting_of_another_version_is_refused(greeting, version):
    data = bytearray(pack_greeting(greeting, RUN))
    data[4] = version
    assert parsed(unpack_greeting, data, RUN) is Refusal.VERSION


@pytest.mark.parametrize("reason", Refusal)
def test_every_reason_fits_into_a_greeting(reason):
    data = pack_greeting(Greeting(Word.REFUSED, reason=reason.value), RUN)
    assert unpack_greeting(data, RUN).reason == reason


def test_what_a_stranger_gives_as_its_reason_is_printed_harmlessly():
    data = pack_greeting(Greeting(Word.REFUSED, reason="a\nb\x1b[2J\u202e"), RUN)
    assert unpack_greeting(data, RUN).reason == r"a\nb\x1b[2J\u202e"
