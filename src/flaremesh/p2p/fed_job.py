"""What NVFlare's FedJob must know about flaremesh, so that a job built with it runs as it is."""

import json
from pathlib import Path
from typing import Any

from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST

from flaremesh.p2p.components import COMPONENTS


def prepare(job: Any) -> None:
    """Called when a flaremesh component is added to ``job``; calling it again changes nothing.

    flaremesh is installed at every site, so FedJob must not copy its modules into the job: that would make
    the job carry code (BYOC), which kits refuse, and hide the installed package. The simulator has no kit,
    and NVFlare's default list of allowed classes knows no flaremesh: a simulated run gets a list in its
    workspace.
    """
    config = job.job
    if "flaremesh" in config.app_packages:
        return
    config.set_app_packages([*config.app_packages, "flaremesh"])
    simulate = config.simulator_run

    def simulator_run(workspace: str, *args: Any, **kwargs: Any) -> Any:
        resources = Path(workspace) / "local" / "resources.json"
        if not resources.exists():
            resources.parent.mkdir(parents=True, exist_ok=True)
            allowed = [*DEFAULT_CLASS_ALLOW_LIST, *COMPONENTS]
            resources.write_text(
                json.dumps({"class_list_enforcement_mode": "enforce", "class_allow_list": allowed})
            )
        return simulate(workspace, *args, **kwargs)

    config.simulator_run = simulator_run
