"""What a command imports: a person who asks waits for no library that the answer does not need."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from flaremesh.cli.main import COMMANDS

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


def test_a_plan_takes_torch_only_to_build_the_problem_that_tells_how_long_messages_are(tmp_path):
    refused, output = tmp_path / "refused.yaml", ("--output", str(tmp_path / "not provisioned"))
    refused.write_text(DIGITS.read_text().replace("gradient-tracking", "gradient-trekking"))
    assert not imported("plan", str(refused), *output, code=2) & HEAVY
    needed = imported("plan", str(DIGITS), *output)
    assert "torch" in needed
    assert not needed & {"nvflare", "matplotlib", "kubernetes", "docker"}
