"""Every promise of docs/security.md has a module that keeps it and a test that proves it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
WHO = {
    *("outsider", "curious server", "malicious server", "member"),
    *("submitter", "compromised pod", "stolen kit", "mailed file"),
}


def rows() -> list[list[str]]:
    """Who, what is promised, what enforces it, what proves it."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return lines[1:]


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_table_speaks_of_everybody() -> None:
    assert {who for who, *_ in rows()} == WHO


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1][:60])
def test_each_promise_has_a_module_and_tests_that_exist(row: list[str]) -> None:
    _, _, enforced, proved = row
    modules = re.findall(r"\]\(([^)]+)\)", enforced)
    tests = re.findall(r"`([^`]+)::([^`]+)`", proved)
    assert modules
    assert tests
    assert all((PAGE.parent / module).exists() for module in modules), enforced
    for file, test in tests:
        assert test in functions(ROOT / file), f"{file} has no {test}"


def test_what_is_promised_of_pods_is_proved_on_a_cluster() -> None:
    assert all("tests/e2e/" in proved for _, promise, _, proved in rows() if " pod " in promise)
