"""Every promise of docs/security.md has a module that keeps it and a test that proves it."""

import ast
import re
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
WHO = {
    *("outsider", "curious server", "malicious server", "member"),
    *("submitter", "compromised pod", "stolen kit", "mailed file"),
}


CARRIERS = ("direct", "dialled back", "met", "relayed")
WHO_IS_NEAR = ("neighbour", "server", "meeting point", "network", "stranger")


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading."""
    _, _, section = PAGE.read_text().partition(f"\n## {heading}\n")
    section, _, _ = section.partition("\n## ")
    _, *rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return rows


def rows() -> list[list[str]]:
    """Who, what is promised, what enforces it, what proves it."""
    return table("Who is kept from what")


def carrier_rows() -> list[list[str]]:
    """By what an edge travels, who, what that one reads, changes and stops, what proves it."""
    return table("Who can do what on each carrier")


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_table_speaks_of_everybody() -> None:
    assert {who for who, *_ in rows()} == WHO


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1][:60])
def test_each_promise_has_a_module_and_tests_that_exist(row: list[str]) -> None:
    _, _, enforced, proved = row
    modules = re.findall(r"\]\(([^)]+)\)", enforced)
    assert modules
    assert all((PAGE.parent / module).exists() for module in modules), enforced
    require_tests(proved)


def require_tests(proved: str) -> None:
    tests = re.findall(r"`([^`]+)::([^`]+)`", proved)
    assert tests
    for file, test in tests:
        assert test in functions(ROOT / file), f"{file} has no {test}"


def test_of_each_carrier_it_is_said_once_what_everybody_can_do() -> None:
    said = [(carrier, who) for carriers, who, *_ in carrier_rows() for carrier in carriers.split(", ")]
    assert sorted(said) == sorted(product(CARRIERS, WHO_IS_NEAR))


@pytest.mark.parametrize("row", carrier_rows(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_what_somebody_can_do_on_a_carrier_is_proved_by_tests_that_exist(row: list[str]) -> None:
    _, _, *powers, proved = row
    assert len(powers) == 3
    assert all(powers)
    require_tests(proved)


def test_what_is_promised_of_pods_is_proved_on_a_cluster() -> None:
    assert all("tests/e2e/" in proved for _, promise, _, proved in rows() if " pod " in promise)
