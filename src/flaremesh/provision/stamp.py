"""Kits carry a digest of themselves, so that a process can tell with which one it was started."""

import hashlib
import json
from pathlib import Path

from flaremesh.p2p.agents.kit import PARTS
from flaremesh.p2p.nvflare.settings import AGENT_RESOURCES
from flaremesh.topology.schema import Code


def stamp(kit: Path, code: Code) -> None:
    """Write the kit's digest, and what it accepts, into the arguments of its agent, if it has one.

    Args:
        kit: its folder; all else in it is final.
        code: what the kit lets jobs run.
    """
    file = _resources(kit)
    if not file.exists():
        return  # an admin's kit
    document = json.loads(file.read_text())
    (agent,) = document["components"]
    agent["args"]["kit"] = {"digest": _digest(kit), **code.model_dump(mode="json")}
    file.write_text(json.dumps(document, indent=2) + "\n")


def digest(kit: Path) -> str | None:
    """The digest that ``stamp`` wrote into a kit; None where there is none to be read."""
    try:
        (agent,) = json.loads(_resources(kit).read_text())["components"]
        return str(agent["args"]["kit"]["digest"])
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _resources(kit: Path) -> Path:
    return kit / "local" / AGENT_RESOURCES


def _digest(kit: Path) -> str:
    content = hashlib.sha256()
    for file in sorted(path for part in PARTS for path in (kit / part).rglob("*") if path.is_file()):
        content.update(f"{file.relative_to(kit)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return content.hexdigest()
