"""Records: dataclasses that are written as JSON and read back, both by their own fields."""

import math
from collections.abc import Mapping, Sized
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from flaremesh.errors import FlaremeshError, first_mistake
from flaremesh.printable import printable

T = TypeVar("T")

Number: TypeAlias = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float of a record. JSON has neither NaN nor infinity: both are written as null, which is read as NaN."""

MOST_COUNT: Final = 1 << 53
"""So much may a count be."""

Whole: TypeAlias = Annotated[int, Field(ge=0, le=MOST_COUNT)]
"""A count of a record; longer ones are refused, because floats cannot calculate with them exactly."""

Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e12)]
"""A duration of a record."""

Text: TypeAlias = Annotated[
    str,
    AfterValidator(printable),
    PlainSerializer(lambda text: text.encode(errors="backslashreplace").decode(), return_type=str),
]
"""Words of a record that come from anybody's code; they are read as `printable` makes them.

JSON has no place for the undecodable bytes of a file's name that they may quote: these are written as their
escapes.
"""

MOST_CHARACTERS: Final = 256
"""So long may a name be."""

Name: TypeAlias = Annotated[Text, Field(max_length=MOST_CHARACTERS)]
"""The name of a site, a metric or a run in a record."""


def at_most(entries: int) -> BeforeValidator:
    """Refuses a longer mapping before its entries are looked at: each that is wrong would cost memory."""

    def check(value: object) -> object:
        if isinstance(value, Sized) and len(value) > entries:
            raise ValueError(f"there are {len(value)} entries, and {entries} are the most")
        return value

    return BeforeValidator(check)


def finite_or_none(value: float | None) -> float | None:
    """A number as JSON has it: None for NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


class RecordError(FlaremeshError):
    """A file or a message is not the record that it should be."""

    exit_code = 2


class Schema(Generic[T]):
    """How a record is written and read.

    Fields that are missing get their defaults, and unknown ones are ignored: so older and newer versions of
    flaremesh read each other as far as they agree. Every other value is refused.

    Args:
        kind: the dataclass.
        what: what a file or a message of it is, for messages: "the result of a run".
    """

    def __init__(self, kind: Any, what: str):
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        self._what = what

    def json(self, record: T, indent: int | None = None) -> str:
        """The record as JSON."""
        return self._adapter.dump_json(record, indent=indent).decode()

    def data(self, record: T) -> dict[str, Any]:
        """The record as dicts, lists, texts, numbers and None; NaN stays NaN."""
        data: dict[str, Any] = self._adapter.dump_python(record, mode="json")
        return data

    def read(self, text: bytes | str, source: object, most: int | None = None) -> T:
        """The record in a JSON text that came from ``source``.

        Args:
            text: the text.
            source: who or what it came from, for messages.
            most: a longer text, in bytes or characters, is refused before it is parsed.

        Raises:
            RecordError: it is not one; the message names the source and the first mistake.
        """
        if most is not None and len(text) > most:
            raise RecordError(f"{source} is not {self._what}: it is longer than {most} bytes.")
        try:
            return self._adapter.validate_json(text if isinstance(text, str) else bytes(text))
        except ValidationError as error:
            raise self._refusal(error, source) from error

    def of(self, data: Mapping[str, Any], source: object) -> T:
        """The record in what ``data`` gave, after it came from ``source``; raises as ``read`` does."""
        try:
            return self._adapter.validate_python(data)
        except ValidationError as error:
            raise self._refusal(error, source) from error

    def _refusal(self, error: ValidationError, source: object) -> RecordError:
        return RecordError(f"{source} is not {self._what}: {first_mistake(error)}.")
