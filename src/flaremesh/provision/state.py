"""What a mesh's folder remembers of the last provisioning."""

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from flaremesh.errors import FlaremeshError, first_mistake
from flaremesh.topology.schema import Topology

LAST_TOPOLOGY: Final = Path("state", "topology.json")
"""In a mesh's folder: the topology that its kits were last made from."""


class StateError(FlaremeshError):
    """A file of the mesh's state is damaged, or of another version; the message says what to do."""

    exit_code = 2


def previous(mesh: Path) -> Topology | None:
    """The topology that the kits in a mesh's folder were last made from, None if there are none.

    Raises:
        StateError: the file that says it is damaged, or of another version.
    """
    path = mesh / LAST_TOPOLOGY
    try:
        return Topology.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = first_mistake(error) if isinstance(error, ValidationError) else error
        raise StateError(
            f"{path} says what the kits were last made from, and cannot be read: {reason}. It is damaged, or "
            "was written by another version of flaremesh. Restore it from a copy, or remove it: all that is "
            "lost is what to deploy anew after the next change."
        ) from None
