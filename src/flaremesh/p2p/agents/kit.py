"""What an agent serves about the kit with which its process was started."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

PARTS: Final = ("startup", "local")
"""The folders of a kit; whatever else lies beside them is no part of it."""

PATH: Final = "/kit"
"""Where an agent serves it, as JSON."""


class Kit(BaseModel):
    """The parts of a kit that tell whether another one differs.

    Attributes:
        digest: of all its files.
        files: it accepts code that a job brings along.
        packages: whose classes a job may name.
        link: where in-neighbours dial, ``{"host": ..., "ports": [low, high]}``; None if they cannot.
        dials: the host of each out-neighbour that is dialled.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    digest: str
    files: bool
    packages: list[str]
    link: Mapping[str, Any] | None = None
    dials: Mapping[str, str] = {}
