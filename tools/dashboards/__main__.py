"""Writes the dashboards: ``python -m tools.dashboards``."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from flaremesh.provision.releases import DASHBOARDS
from tools.dashboards import edges, overview, run, site


def files() -> dict[Path, str]:
    """The JSON of each dashboard by its file."""
    dashboards = {
        "overview": overview.dashboard(),
        "run": run.dashboard(),
        "site": site.dashboard(),
        "edges": edges.dashboard(),
    }
    return {
        DASHBOARDS / f"{name}.json": json.dumps(board.build(), cls=JSONEncoder, sort_keys=True, indent=2)
        + "\n"
        for name, board in dashboards.items()
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
