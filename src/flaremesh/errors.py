"""The base of all errors that a user can act on."""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError


class FlaremeshError(Exception):
    """An error whose text is one or two plain sentences for the user: what is wrong, where, and what to do.

    Attributes:
        exit_code: status with which a command ends: 1, or 2 where its arguments or a file are wrong.
    """

    exit_code: ClassVar[int] = 1


def first_mistake(error: "ValidationError") -> str:
    """The first thing that pydantic found wrong, and where."""
    detail = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where}: {detail['msg']}" if where else str(detail["msg"])
