"""What the README shows works as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

README = Path(__file__).parents[2] / "README.md"


PAGES = [README, README.with_name("CONTRIBUTING.md"), *README.parent.glob("docs/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_tells_to_make_is_a_target(page):
    makefile = README.with_name("Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_files_that_a_page_links_are_there(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def block(after, opening):
    """The first code block after a heading: its lines without the fence or the indentation."""
    text = README.read_text().split(f"## {after}\n", 1)[1]
    if opening.startswith("```"):
        return text.split(opening + "\n", 1)[1].split("```", 1)[0]
    lines = re.search(rf"^    {opening}.*\n(?:    .*\n|\n)*", text, re.MULTILINE)
    return re.sub(r"^    ", "", lines[0], flags=re.MULTILINE)


@pytest.fixture
def topology():
    return yaml.safe_load(block("A mesh of your own", "apiVersion"))


def simulated(folder, topology, *options):
    (folder / "mesh.yaml").write_text(yaml.safe_dump(topology))
    command = [sys.executable, "-m", "flaremesh.cli.main", "simulate", "mesh.yaml", "--json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_topology_of_the_readme_is_one(tmp_path, topology):
    assert simulated(tmp_path, topology, "--iterations", "3")["sites"] == ["heidelberg", "bonn", "aachen"]


def test_the_problem_of_the_readme_is_solved_by_the_run_of_the_readme(tmp_path, topology):
    problem = block("Write a problem", "```python")
    assert len(problem.splitlines()) <= 30
    (tmp_path / "regression.py").write_text(problem)
    topology |= yaml.safe_load(block("Write a problem", "run:"))
    history = simulated(tmp_path, topology)
    final = history["history"][-1]
    assert final["mean"] == pytest.approx([1, 2, 3], abs=0.02)
    assert final["consensus_distance"] < 1e-3
