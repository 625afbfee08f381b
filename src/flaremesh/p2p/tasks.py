"""What controller and executors say to each other."""

from enum import StrEnum
from typing import Final


class Task(StrEnum):
    """Names of the controller's tasks."""

    CONFIG = "config"
    RUN_ALGORITHM = "run_algorithm"


REASON: Final = "flaremesh.reason"
"""Header of a failed task's reply: why it failed, in words."""

PROGRESS_COMMAND: Final = "flaremesh.progress"
"""Topic of the admin's command that asks for the progress of a run."""
