"""A problem that looks around, as the code of a job could."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import SiteContext


class Nosy(Consensus):
    """Tries to read and to write files, and writes what it could do into the folder where it works.

    Args:
        site: the site to which the problem belongs.
        reads: files; PARENT stands for the process of its site.
        writes: files.
        args: arguments of Consensus.
    """

    def __init__(self, site: SiteContext, reads: Sequence[str], writes: Sequence[str], **args: Any):
        super().__init__(site, **args)
        parent = os.getppid()
        found = {name: _able(Path(name.replace("PARENT", str(parent))).read_bytes) for name in reads}
        found |= {f"write {name}": _able(lambda name=name: Path(name).open("ab").close()) for name in writes}
        found["signal"] = _able(lambda: os.kill(parent, 0))
        Path("found.json").write_text(json.dumps({"able": found, "environment": dict(os.environ)}))


def _able(act: Callable[[], object]) -> bool:
    try:
        act()
    except PermissionError:
        return False
    return True
