"""What every error that a user can act on has in common."""

from typing import ClassVar


class FlaremeshError(Exception):
    """Its text is one or two plain sentences for the user: what is wrong, where, and what to do.

    Attributes:
        exit_code: status with which a command ends: 1, or 2 where its arguments or a file are wrong.
    """

    exit_code: ClassVar[int] = 1
