"""What a YAML scalar without quotes means.

Numbers are what Python writes as numbers, so 1e-4 is one. A scalar that versions of YAML read differently,
such as 010 or 12:30, is a mistake. Dates and truth values are those of YAML 1.1.
"""

import datetime
import math
import re
from typing import Final, TypeAlias

import yaml

TAG: Final = "tag:yaml.org,2002:"
"""Prefix of the tags of YAML's own types."""

Scalar: TypeAlias = bool | int | float | str | datetime.date | None


class Ambiguous(Exception):
    """A scalar has no certain meaning; the arguments are the problem and the remedy."""


TYPES: Final[dict[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "timestamp": (datetime.date, datetime.datetime),
}
"""The types that a value with an explicit tag may have, by the tag's name."""

_INTEGER = re.compile(
    r"[-+]?(?:0[bB][01_]*[01]|0[oO][0-7_]*[0-7]|0[xX][\da-fA-F_]*[\da-fA-F]|0|[1-9][\d_]*)", re.ASCII
)
_FLOAT = re.compile(r"[-+]?(?:\.\d[\d_]*|\d[\d_]*(?:\.[\d_]*)?)(?:[eE][-+]?\d+)?", re.ASCII)
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[\d_]+", re.ASCII)
_MOST_DIGITS = 4300  # Python reads no longer numbers

_YAML_1_1 = yaml.SafeLoader("")


def meant(text: str) -> Scalar:
    """The value of a scalar without quotes.

    Raises:
        Ambiguous: it can be read in several ways, or as no value at all.
    """
    if text[:1] not in _YAML_1_1.yaml_implicit_resolvers:
        return text  # the quick way, for most
    tag: str = _YAML_1_1.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # PyYAML's
    old = tag.removeprefix(TAG)
    digits = text.replace("_", "")
    if old == "null":
        return None
    if old == "bool":
        return _YAML_1_1.bool_values[text.lower()]
    if old == "timestamp":
        try:
            return _YAML_1_1.construct_yaml_timestamp(yaml.ScalarNode(old, text))
        except ValueError:
            raise Ambiguous(f"there is no date {text}", "correct it, or put it in quotes") from None
    if _INTEGER.fullmatch(text):
        if len(digits) > _MOST_DIGITS:
            raise Ambiguous(
                f"a number of {len(digits)} digits is too long", "shorten it, or put it in quotes"
            )
        return int(digits, 0)
    if _LEADING_ZERO.fullmatch(text) or (old in ("int", "float") and ":" in text):
        raise Ambiguous(
            f"YAML reads {text} in several ways: octal, decimal, in base 60, or as text",
            "write a number without leading zeros and colons, or put text in quotes",
        )
    if _FLOAT.fullmatch(text):
        if math.isinf(number := float(digits)):
            raise Ambiguous(f"{text} is larger than every number", "write .inf if infinity is meant")
        return number
    return float(text.replace(".", "")) if _NO_NUMBER.fullmatch(text) else text
