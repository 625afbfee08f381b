"""What a participant keeps of a run from one attempt to the next, and where.

A run is named by its order, whose signed file is the same in each attempt. Whoever knows the digest of that
file knows all that the run was asked to do, so no other run comes into the same folder.
"""

from pathlib import Path
from typing import Final

from flaremesh.checksum import sha256

ORDER: Final = "config/order.json"
"""The place of a run's order in an app."""

MOST_BYTES: Final = 32 << 20
"""No order is longer: the edges of a complete graph of a thousand sites."""

STORES: Final = "stores"
"""The folder in a participant's workspace that holds the stores."""

CHECKPOINTS: Final = "checkpoints"
"""The folder in a site's store that holds its checkpoints."""


def store_of(workspace: Path, app: Path) -> Path:
    """The store of a run at a participant; it is not made here.

    Args:
        workspace: the participant's.
        app: the folder of the run's app, in any of its attempts.

    Raises:
        FileNotFoundError: the app has no order, as no run of flaremesh's is.
    """
    return workspace / STORES / sha256(app / ORDER)


def make(store: Path) -> None:
    """Make the folder of a store, for this participant alone."""
    for folder in (store.parent, store):
        folder.mkdir(mode=0o700, exist_ok=True)
