"""What `make test` says in the end of the tests that it skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LACKS_TWO = """
import pytest
from programs import lacking

def test_runs(): pass
def test_scrapes(): lacking("prometheus is not on the PATH", "tests/install-tools", ci_has_it=False)
def test_records(): lacking("prometheus is not on the PATH", "tests/install-tools", ci_has_it=False)
@pytest.mark.xfail(strict=True)
def test_fails_as_is_known(): raise AssertionError
"""
LACKS_ONE = """
from programs import lacking

def test_draws(): lacking("no GPU is here", "make test-gpu", ci_has_it=False)
"""


def run(*command: str, folder: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(TESTS), "CI": "", **variables}
    ended = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_all_that_several_runs_skipped_is_told_with_what_brings_it(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_first.py").write_text(LACKS_TWO)
    (tmp_path / "test_second.py").write_text(LACKS_ONE)
    for file in ("test_first.py", "test_second.py"):
        plugins = ("-p", "skipped", "--numprocesses", workers)
        run("-m", "pytest", *plugins, file, folder=tmp_path, SKIPPED_TESTS=str(tmp_path / "notes"))
    head, *lines = run(str(TESTS / "skipped.py"), "notes", folder=tmp_path).strip().splitlines()
    assert head == "3 tests were skipped."
    prometheus = lines.index("  prometheus is not on the PATH; this brings it: tests/install-tools")
    assert {line.strip() for line in lines[prometheus + 1 : prometheus + 3]} == {
        "test_first.py::test_scrapes",
        "test_first.py::test_records",
    }
    gpu = lines.index("  no GPU is here; this brings it: make test-gpu")
    assert lines[gpu + 1].strip() == "test_second.py::test_draws"
    assert len(lines) == 5, "what is known to fail was not skipped"


def test_a_single_one_is_one_test(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text('["no GPU is here", "test_gpu.py::test_learns"]\n')
    said = run(str(TESTS / "skipped.py"), "notes", folder=tmp_path).strip()
    assert said == "1 test was skipped.\n  no GPU is here\n    test_gpu.py::test_learns"


def test_where_nothing_was_skipped_it_says_so(tmp_path: Path) -> None:
    assert run(str(TESTS / "skipped.py"), "notes", folder=tmp_path).strip() == "No test was skipped."


def test_in_ci_what_it_ought_to_have_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_ci.py").write_text(LACKS_ONE.replace(", ci_has_it=False", ""))
    (tmp_path / "test_other.py").write_text(LACKS_ONE)
    with pytest.raises(AssertionError, match="no GPU is here; this brings it: make test-gpu"):
        run("-m", "pytest", "test_ci.py", folder=tmp_path, CI="true")
    assert "1 skipped" in run("-m", "pytest", "test_other.py", folder=tmp_path, CI="true")
