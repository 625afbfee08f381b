"""The words of strangers, wherever they are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaremesh.printable import printable


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("the data are gone", "the data are gone"),
        ("größer als 1 µs – 再見", "größer als 1 µs – 再見"),
        ("\x1b[2J\x1b]8;;http://evil\x07", r"\x1b[2J\x1b]8;;http://evil\x07"),
        ("one\r\nWARNING two\x85\u2028three", "one  WARNING two  three"),
        ("\u202egnp.exe\u2066\u200b", r"\u202egnp.exe\u2066\u200b"),
        (b"caf\xe9".decode(errors="surrogateescape"), r"caf\udce9"),
        ("x" * 3000, "x" * 1999 + "…"),
        ({"of": 1}, "{'of': 1}"),
    ],
)
def test_words_are_shown_and_do_nothing(words, shown):
    assert printable(words) == shown


@given(words=st.text(), most=st.integers(1, 40))
def test_whatever_is_told_is_one_line_of_bounded_length(words, most):
    line = printable(words, most)
    assert line.isprintable()
    assert len(line) <= most
    assert printable(line, most) == line
