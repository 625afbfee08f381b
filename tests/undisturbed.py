"""What a run leaves behind that must be the same whatever has disturbed it."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flaremesh.runtime.history import HISTORY, History


def left_behind(run: Path, sites: Iterable[str]) -> dict[str, tuple[bytes, list[dict[str, Any]]]]:
    """Model and history of every site, without its times.

    Args:
        run: the run's folder.
        sites: their names.
    """
    return {
        site: ((run / site / "model.safetensors").read_bytes(), _without_times(run / site / HISTORY))
        for site in sites
    }


def _without_times(file: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in asdict(record).items() if not name.endswith("seconds")}
        for record in History.read(file).ordered()
    ]
