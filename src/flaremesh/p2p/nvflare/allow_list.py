"""Which classes a job may name: the allow-list in a kit's ``resources.json``."""

import json
from collections.abc import Iterable
from pathlib import Path

from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer


def allows(class_path: str, fl_ctx: FLContext) -> bool:
    """Whether the kit of this process lets a job name a class.

    NVFlare asks for the classes of its own components only, and not for what their arguments name.

    Args:
        class_path: dotted.
        fl_ctx: context of the job's process.
    """
    try:
        ComponentPathAuthorizer().authorize_component_config({"path": class_path}, fl_ctx=fl_ctx)
    except UnsafeComponentError:
        return False
    return True


def let_simulator_allow(classes: Iterable[str], workspace: Path) -> None:
    """Add classes to those that jobs may name in NVFlare's simulator, unless a list of its own is there.

    The simulator has no kit; it reads a list in its workspace, which replaces NVFlare's default.

    Args:
        classes: their dotted paths.
        workspace: of the simulator.
    """
    resources = workspace / "local" / "resources.json"
    if not resources.exists():
        resources.parent.mkdir(parents=True, exist_ok=True)
        allowed = [*DEFAULT_CLASS_ALLOW_LIST, *classes]
        resources.write_text(
            json.dumps({"class_list_enforcement_mode": "enforce", "class_allow_list": allowed})
        )
