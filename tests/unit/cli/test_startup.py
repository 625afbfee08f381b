"""What a command imports: a person who asks waits for no library that the answer does not need."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from flaremesh.cli.main import COMMANDS
from flaremesh.provision.state import LAST_TOPOLOGY
from flaremesh.topology.load import load

DIGITS = Path(__file__).parents[3] / "provision/digits-ring4.yaml"
HEAVY = {"torch", "sklearn", "scipy", "nvflare", "matplotlib", "kubernetes", "docker"}

_PROGRAM = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from flaremesh.cli.main import app
app()
"""


def imported(*arguments: str, code: int = 0) -> set[str]:
    """The packages that a command has imported when its process ends."""
    command = subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True)
    assert command.returncode == code, command.stderr
    assert command.stdout
    packages = {module.partition(".")[0] for module in command.stderr.splitlines()[-1].split()}
    assert "flaremesh" in packages
    return packages


def test_the_list_of_commands_needs_no_library_but_that_which_prints_it():
    assert not imported("--help") & (HEAVY | {"numpy", "networkx", "pydantic", "yaml"})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_needs_none_of_the_heavy_libraries(command):
    assert not imported(command, "--help") & HEAVY


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_shows_the_first_line_of_what_a_command_says_of_itself(command):
    function = getattr(import_module(f"flaremesh.cli.{command}"), command)
    assert COMMANDS[command] == function.__doc__.splitlines()[0]


@pytest.mark.parametrize("provisioned", [False, True])
def test_a_plan_needs_none_of_the_heavy_libraries(tmp_path, provisioned):
    if provisioned:
        (tmp_path / LAST_TOPOLOGY).parent.mkdir()
        (tmp_path / LAST_TOPOLOGY).write_text(load(DIGITS).model_dump_json())
    assert not imported("plan", str(DIGITS), "--output", str(tmp_path)) & HEAVY


def test_a_refused_plan_needs_none_of_them_either(tmp_path):
    refused = tmp_path / "refused.yaml"
    refused.write_text(DIGITS.read_text().replace("gradient-tracking", "gradient-trekking"))
    assert not imported("plan", str(refused), code=2) & HEAVY


def test_a_plan_that_builds_the_problem_needs_torch_but_not_nvflare(tmp_path):
    needed = imported("plan", str(DIGITS), "--build-problem", "--output", str(tmp_path))
    assert "torch" in needed
    assert not needed & {"nvflare", "matplotlib", "kubernetes", "docker"}
