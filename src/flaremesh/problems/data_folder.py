"""Where a site's own data is."""

import os
from pathlib import Path
from typing import Final

DATA_DIR_VARIABLE: Final = "FLAREMESH_DATA_DIR"
"""Environment variable of a site's process, and of the simulator's."""


def data_folder() -> Path | None:
    """The folder that the environment of this process names, None if it names none."""
    folder = os.environ.get(DATA_DIR_VARIABLE)
    return Path(folder) if folder else None
