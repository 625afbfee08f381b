"""A problem as it travels in a job: what `deliver` puts there, and ``delivery`` builds at a site.

A job's app has ``config/problem.yaml``, which names the class or the script, and its arguments. Where it
stands in a file of the user's, ``custom/`` holds that file and the Python files beside it that it imports;
NVFlare refuses such a job where the site's kit lets nobody bring code along.

The arguments are no part of NVFlare's own configuration: that knows JSON's types only, replaces what stands
in braces, and takes a mapping with a ``name`` or a ``path`` for a component.
"""

import shutil
from pathlib import Path
from typing import Final

import yaml

from flaremesh.errors import FlaremeshError
from flaremesh.problems.sources import SourceError, of_problem
from flaremesh.topology.schema import AnyProblem, ScriptReference

DESCRIPTION: Final = Path("config/problem.yaml")
CODE: Final = Path("custom")
"""Where they are in the folder of an app."""


class DeliveryError(FlaremeshError):
    """A problem cannot travel to the sites, or did not arrive there; the message says why."""

    exit_code = 2


def deliver(reference: AnyProblem, app: Path) -> None:
    """Put all that a site needs to build the problem into the folder of a job's app.

    Raises:
        DeliveryError: an argument is of a type that cannot travel, or a file is a link out of the folder.
    """
    description = dict(reference)  # arguments as they are: model_dump makes something else of some
    for field in {"file", "script"} & description.keys():
        description[field] = reference.file and reference.file.name
    if isinstance(reference, ScriptReference):
        description["args"] = list(reference.args)
    try:
        text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True)
    except yaml.representer.RepresenterError as error:
        raise DeliveryError(
            f"run.problem.args: {error.args[-1]!r} cannot travel to the sites; "
            "give numbers, texts, dates, and lists and mappings of them"
        ) from None
    (app / DESCRIPTION).parent.mkdir(parents=True, exist_ok=True)
    (app / DESCRIPTION).write_text(text, encoding="utf-8")
    if reference.file is not None:
        try:
            travelling = of_problem(reference)
        except SourceError as error:
            raise DeliveryError(str(error)) from None
        for source in travelling:
            target = app / CODE / source.relative_to(reference.file.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
