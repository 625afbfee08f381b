"""Values to render charts with."""

from pathlib import Path
from typing import Any

import yaml
from rendering import Object, Rendered, merged, render

PARTICIPANTS = ("flaremesh-server", "flaremesh-site")
MONITORING = "flaremesh-monitoring"
NAMES = (*PARTICIPANTS, MONITORING)


class Installation:
    """What provisioning wrote for a topology, rendered per participant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = {path.name for path in (folder / "helm").iterdir()}
        self.participants = sorted(names - {"monitoring"})

    def files(self, participant: str) -> Path:
        return self.folder / "helm" / participant

    def values(self, participant: str) -> dict[str, Any]:
        folder = self.files(participant)
        first, then = (yaml.safe_load((folder / name).read_text()) for name in ("values.yaml", "kit.yaml"))
        return merged(first, then)

    def render(
        self, participant: str, namespace: str | None = None, further: Object | None = None
    ) -> Rendered:
        chart = next(self.files(participant).glob("flaremesh-*"))
        values = merged(self.values(participant), further or {})
        return render(chart, values, participant, namespace or f"digits-{participant}")


def every_option_of(chart: str) -> dict[str, Any]:
    name = chart.replace("flaremesh-", "every-option-")
    values: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text())
    return values
