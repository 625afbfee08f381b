"""What NVFlare's FedJob must know about flaremesh, so that a job built with it runs as it is."""

import json
from typing import Any

from flaremesh.errors import FlaremeshError
from flaremesh.p2p.components import CLASSES
from flaremesh.p2p.gate.exported import write_orders
from flaremesh.p2p.nvflare.fed_jobs import name_installed, written_arguments


class ArgumentError(FlaremeshError):
    """A job cannot carry a component's constructor argument."""

    exit_code = 2


def prepare(job: Any, component: Any) -> None:
    """Called when a flaremesh ``component`` is added to ``job``; calling it again changes nothing.

    Raises:
        ArgumentError: FedJob writes arguments as JSON, in which this one has no place.
    """
    for name, value in written_arguments(component).items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ArgumentError(
                f"{type(component).__name__}: the job cannot carry the argument {name}: {error}; give "
                "numbers, texts, lists and dicts of them, or an object of such arguments, as a Network is"
            ) from error
    name_installed(job, "flaremesh", CLASSES, write_orders)
