"""The files of an app and what they name: a closed model of a job's configuration at a site.

NVFlare reads more than a job of flaremesh needs: further files, components by a class's bare name, variables
and secrets that it fills in. None of it is let in.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from flaremesh.p2p.gate.code import FOLDER, JobCode
from flaremesh.p2p.gate.request import Refused, quoted
from flaremesh.p2p.store import ORDER

_SITE = "config/config_fed_client.json"
_PROBLEM: Final = "config/problem.yaml"
# the server's, which FedJob puts into the same app where one is for all; a site does not load it
_FILES = frozenset({_SITE, "config/config_fed_server.json", _PROBLEM, ORDER})
_MOST_BYTES = 4 << 20
_LISTS = frozenset({"executors", "components", "task_data_filters", "task_result_filters"})
_DEEPEST = 50
_OF_SCRIPTS = {"args", "model_args", "launch", "evaluates", "timeout"}
# NVFlare formats what stands in braces again and again: `{{{a:c}HOME}}` becomes `{$HOME}` where a is 36
_VARIABLE = re.compile(r"\{[A-Za-z_]\w*\}", re.ASCII)


@dataclass(frozen=True)
class Named:
    """What a job runs, in words for people and policies.

    Attributes:
        algorithm: its name or class; of an executor with an algorithm of its own, the executor's class.
        problem: its class or file; empty where the executor has its own.
    """

    algorithm: str
    problem: str


def check(app: Path, files: Mapping[str, str], code: JobCode) -> Named:
    """Check that an app holds nothing but what a site may load.

    Args:
        app: its folder.
        files: SHA-256 of its files, by their paths.
        code: of the job.

    Raises:
        Refused: it holds something else.
    """
    for path in files:
        if path not in _FILES and not path.startswith(f"{FOLDER}/"):
            raise Refused(
                f"the app has a file that no job of flaremesh has, {quoted(path.replace('/', '.'))}: a job's "
                f"code stands in {FOLDER}/"
            )
    named = _check_config(_document(app / _SITE), code)
    if _PROBLEM not in files:
        return named
    if named.problem:
        raise Refused(f"the job names a problem in {_SITE}, and another one in {_PROBLEM}")
    return Named(named.algorithm, _check_problem(app / _PROBLEM, code))


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(_text(file))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Refused(f"{_SITE} of the job is no configuration")
    return document


def _check_config(config: Mapping[str, Any], code: JobCode) -> Named:
    """Check a site's configuration; returns what its executor runs."""
    for key, value in config.items():
        if key in _LISTS:
            if not isinstance(value, list):
                raise Refused(f"{key} of {_SITE} is no list")
        elif not isinstance(value, int | float):  # NVFlare's settings of time and size
            raise Refused(f"{_SITE} has the entry {quoted(key)}, which no job of flaremesh has")
    for kind in sorted(_LISTS & config.keys()):
        _check_values(config[kind], code)
    executors = config.get("executors") or []
    if not executors:
        raise Refused(f"{_SITE} of the job has no executor")
    if len(executors) > 1:  # people and policies are told of one
        raise Refused(f"{_SITE} of the job has several executors, and a run has one algorithm")
    executor = executors[0].get("executor") if isinstance(executors[0], dict) else None
    if not isinstance(executor, dict):
        raise Refused(f"{_SITE} of the job describes no executor")
    given = executor.get("args")
    arguments = given if isinstance(given, dict) else {}
    problem = arguments.get("problem")
    return Named(
        algorithm=str(arguments.get("algorithm") or executor.get("path")),
        problem=str(problem.get("path") or "") if isinstance(problem, dict) else "",
    )


def _check_values(value: Any, code: JobCode, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise Refused(f"{_SITE} is more than {_DEEPEST} levels deep")
    match value:
        case str() if "${" in value or {"{", "}"}.intersection(_VARIABLE.sub("", value)):
            raise Refused(
                f"{_SITE} asks for a variable or a secret of the site: write the value without braces, or "
                "let the site's own code read it"
            )
        case list():
            for entry in value:
                _check_values(entry, code, depth + 1)
        case dict():
            _check_component(value, code)
            for key, entry in value.items():
                _check_values(key, code, depth + 1)
                _check_values(entry, code, depth + 1)


def _check_component(value: Mapping[str, Any], code: JobCode) -> None:
    """Check a mapping that NVFlare may take for a component."""
    if {"name", "class_path", "class_attributes"} & value.keys():
        raise Refused(
            f"{_SITE} has a mapping with the key `name`, `class_path` or `class_attributes`, which NVFlare "
            "may take for a class or its arguments: components have a `path` and `args`; give a value of "
            "yours another key"
        )
    if "path" not in value:
        return
    if not isinstance(value["path"], str):
        raise Refused(f"a `path` in {_SITE} is no text")
    code.check_class(value["path"])
    arguments = value.get("args")
    if isinstance(arguments, dict) and "algorithm" in arguments:
        if not isinstance(arguments["algorithm"], str):
            raise Refused(f"an `algorithm` in {_SITE} is no text")
        code.check_algorithm(arguments["algorithm"])


def _check_problem(file: Path, code: JobCode) -> str:
    """Check what the job says of its problem; returns its class or its file."""
    try:
        problem = yaml.safe_load(_text(file))
    except (ValueError, RecursionError, yaml.YAMLError):
        problem = None
    match problem:
        case {"path": str(path), **others}:
            code.check_class(path)
        case {"file": str(path), **others}:
            code.check_file(path)
        case {"script": str(path), "model": str(model), **others}:
            code.check_file(path)
            code.check_class(model)
            if not others.keys() <= _OF_SCRIPTS:
                raise Refused(f"{_PROBLEM} of the job says more of its script than is known of scripts")
            return path
        case _:
            raise Refused(f"{_PROBLEM} of the job describes no problem")
    if not others.keys() <= {"name", "args", "path", "file"} or others.get("path") or others.get("file"):
        raise Refused(f"{_PROBLEM} of the job describes more than one problem")
    return path


def _text(file: Path) -> str:
    if not file.is_file():
        raise Refused(f"the job has no {file.parent.name}/{file.name}")
    if file.stat().st_size > _MOST_BYTES:
        raise Refused(f"{file.parent.name}/{file.name} of the job is longer than {_MOST_BYTES >> 20} MiB")
    return file.read_text(encoding="utf-8")
