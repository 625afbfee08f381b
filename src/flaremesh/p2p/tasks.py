"""What controller and executors say to each other."""

from enum import StrEnum
from typing import Final


class Task(StrEnum):
    """Names of the controller's tasks."""

    CONFIG = "config"
    RUN_ALGORITHM = "run_algorithm"


REASON: Final = "flaremesh.reason"
"""Header of a failed task's reply: why it failed, in words."""

ITERATION: Final = "flaremesh.iteration"
"""Header of the reply of a site that waited for its neighbours in vain: in which iteration."""

ADDRESS: Final = "address"
"""In the reply to the first ``config`` task: host and port where in-neighbours dial, None if they cannot."""

BY_VALUE: Final = "by_value"
"""Whether values are exchanged by methods that a subclass overrides.

Beside ADDRESS, this site needs that; beside ADDRESSES, some site does, so that all do it.
"""

ADDRESSES: Final = "addresses"
"""In the second ``config`` task, which comes when all sites listen: the addresses of all that have one."""

START_TIMEOUT: Final = "start_timeout"
"""Beside ADDRESSES: seconds that a site may take until it is linked."""

PREPARE: Final = "prepare"
"""In the third ``config`` task, which comes when all are linked: do all that precedes the first iteration."""

CHECKPOINTS: Final = "checkpoints"
"""Beside ADDRESS: the iterations of which the site has a checkpoint."""

RESUME: Final = "resume"
"""Beside PREPARE: the iteration whose checkpoint all sites have, to go on from; None: from the start."""

JOINING: Final = "joining"
"""Beside PREPARE: the sites that join there, and go on from what their neighbours tell them."""

REPAIR: Final = "repair"
"""Beside PREPARE: sites join there, or have in an attempt that was lost since: all repair their state."""

LOST: Final = "flaremesh.lost"
"""Header of a failed task's reply: a neighbour or an edge was lost, and nobody has failed."""

PROGRESS_COMMAND: Final = "flaremesh.progress"
"""Topic of the admin's command that asks for the progress of a run."""
