"""Jobs that are built in Python with NVFlare's FedJob.

This hides the configuration inside a FedJob. Two methods of that object are replaced, because NVFlare offers
no hook between the last component that is added and the export.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from nvflare.fuel.utils.class_utils import get_component_init_parameters

from flaremesh.p2p.nvflare.allow_list import let_simulator_allow

_INSTALLED = "_flaremesh_installed"


def name_installed(job: Any, package: str, classes: Collection[str], finish: Callable[[Path], None]) -> None:
    """Let a job name the classes of an installed package; a second call changes nothing.

    FedJob would copy the package's modules into the job, which then carries code (BYOC): kits refuse that,
    and the copy hides the installed package.

    Args:
        job: a FedJob.
        package: name of the package, which is installed at every site.
        classes: dotted paths of those that the simulator must let the job name.
        finish: called with the job's folder whenever it has been written.
    """
    config = job.job
    if hasattr(config, _INSTALLED):
        return
    setattr(config, _INSTALLED, True)
    generate, simulate = config.generate_job_config, config.simulator_run

    def generate_job_config(job_root: str) -> None:
        # now, because set_app_packages may have been called before and after
        config.set_app_packages(sorted({*config.app_packages, package}))
        generate(job_root)
        finish(Path(job_root) / config.job_name)

    def simulator_run(workspace: str, *args: Any, **kwargs: Any) -> Any:
        let_simulator_allow(classes, Path(workspace))
        return simulate(workspace, *args, **kwargs)

    config.generate_job_config, config.simulator_run = generate_job_config, simulator_run


def written_arguments(component: Any) -> dict[str, Any]:
    """The constructor arguments of a component that FedJob writes into the job as they are.

    FedJob looks them up among the component's attributes, under their names or with an underscore, and writes
    all but lists and dicts as a class and its arguments.
    """
    attributes = vars(component)
    arguments = {
        name: attributes.get(name, attributes.get(f"_{name}"))
        for name in get_component_init_parameters(component)
    }
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(value, list | tuple | dict | set | frozenset)
    }
