"""The base of all errors that a user can act on."""

from typing import TYPE_CHECKING, ClassVar

from flaremesh.printable import printable

if TYPE_CHECKING:
    from pydantic import ValidationError

_MOST_PLACE, _MOST_MISTAKE = 120, 300  # characters


class FlaremeshError(Exception):
    """An error whose text is one or two plain sentences for the user: what is wrong, where, and what to do.

    Attributes:
        exit_code: status with which a command ends: 1, or 2 where its arguments or a file are wrong.
    """

    exit_code: ClassVar[int] = 1


def first_mistake(error: "ValidationError") -> str:
    """The first thing that pydantic found wrong, and where.

    The value itself is not told: it may be a secret, or an attack on who reads the message.
    """
    detail = error.errors(include_url=False, include_input=False)[0]
    where = printable(".".join(str(part) for part in detail["loc"]), _MOST_PLACE)
    what = printable(detail["msg"], _MOST_MISTAKE)
    return f"{where}: {what}" if where else what
