"""What NVFlare's FedJob must know about flaremesh, so that a job built with it runs as it is."""

import json
from pathlib import Path
from typing import Any

from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.fuel.utils.class_utils import get_component_init_parameters

from flaremesh.errors import FlaremeshError
from flaremesh.p2p.components import COMPONENTS

_PREPARED = "_flaremesh_prepared"


class ArgumentError(FlaremeshError):
    """A job cannot carry a component's constructor argument."""

    exit_code = 2


def prepare(job: Any, component: Any) -> None:
    """Called when a flaremesh ``component`` is added to ``job``; calling it again changes nothing.

    flaremesh is installed at every site, so FedJob must not copy its modules into the job: that would make
    the job carry code (BYOC), which kits refuse, and hide the installed package. The simulator has no kit,
    and NVFlare's default list of allowed classes knows no flaremesh: a simulated run gets a list in its
    workspace.

    Raises:
        ArgumentError: FedJob writes arguments as JSON, in which this one has no place.
    """
    _require_json(component)
    config = job.job
    if hasattr(config, _PREPARED):
        return
    setattr(config, _PREPARED, True)
    generate, simulate = config.generate_job_config, config.simulator_run

    def generate_job_config(job_root: str) -> Any:
        # now, because set_app_packages may have been called before and after
        config.set_app_packages(sorted({*config.app_packages, "flaremesh"}))
        return generate(job_root)

    def simulator_run(workspace: str, *args: Any, **kwargs: Any) -> Any:
        resources = Path(workspace) / "local" / "resources.json"
        if not resources.exists():
            resources.parent.mkdir(parents=True, exist_ok=True)
            allowed = [*DEFAULT_CLASS_ALLOW_LIST, *COMPONENTS]
            resources.write_text(
                json.dumps({"class_list_enforcement_mode": "enforce", "class_allow_list": allowed})
            )
        return simulate(workspace, *args, **kwargs)

    config.generate_job_config, config.simulator_run = generate_job_config, simulator_run


def _require_json(component: Any) -> None:
    """Of the arguments that FedJob takes as they are, find one that JSON does not."""
    attributes = vars(component)
    for name in get_component_init_parameters(component):
        value = attributes.get(name, attributes.get(f"_{name}"))
        if not isinstance(value, list | tuple | dict | set | frozenset):
            continue  # others FedJob writes as a class and its arguments
        try:
            json.dumps(value)
        except TypeError as error:
            raise ArgumentError(
                f"{type(component).__name__}: the job cannot carry the argument {name}: {error}; give "
                "numbers, texts, lists and dicts of them, or an object of such arguments, as a Network is"
            ) from error
