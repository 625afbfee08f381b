"""From a topology to startup kits and jobs."""

from pathlib import Path
from typing import Final

LAST_TOPOLOGY: Final = Path("state", "topology.json")
"""In a mesh's folder: the topology that its kits were last made from."""
