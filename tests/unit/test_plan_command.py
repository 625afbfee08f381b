"""`flaremesh plan` and `flaremesh schema`, as a user calls them."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flaremesh import __version__
from flaremesh.cli.main import app
from flaremesh.deploy.reports.partition_plot import plot_of
from flaremesh.problems.partitions import classes_of
from flaremesh.provision.measured import MeasuredEdge, Measurement, to_json
from flaremesh.provision.tuning import local_steps
from flaremesh.topology.load import load
from flaremesh.topology.schema import Topology

EXAMPLES = Path(__file__).parents[2] / "provision"
HEADER = """\
apiVersion: flaremesh/v1
name: planned
server: {host: flare.example.org, org: consortium}
admins: [{email: admin@consortium.org, org: consortium}]
weights: metropolis
run: {algorithm: consensus, iterations: 10, problem: {path: flaremesh.problems.consensus.Consensus}}
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def flaremesh(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plan_of_an_example_fits_a_hundred_columns(example: Path) -> None:
    code, out, err = flaremesh("plan", example)

    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert example.stem in out
    assert load(example).server.host in out


def test_the_plan_as_json_has_the_same_facts() -> None:
    code, out, _ = flaremesh("plan", EXAMPLES / "exponential8.yaml", "--json")

    document = json.loads(out)
    assert code == 0
    assert document["graph"]["phases"] == 3
    assert document["mixing"]["iterations_to_a_thousandth"] == 3


@pytest.mark.parametrize(("algorithm", "vectors"), [("gradient-tracking", "2 vectors"), ("dgd", "1 vector")])
def test_a_plan_counts_vectors_where_only_the_problem_tells_their_bytes(
    tmp_path: Path, algorithm: str, vectors: str
) -> None:
    file = tmp_path / "compressed.yaml"
    text = (EXAMPLES / "digits-ring4.yaml").read_text()
    file.write_text(text.replace("gradient-tracking", f"{algorithm}\n  wire: int8"))

    code, out, _ = flaremesh("plan", file)

    assert code == 0
    assert re.search(rf"message +{vectors} as long as the model per iteration and link", out)


def test_the_plan_of_an_unsound_run_is_shown_and_ends_with_the_fix(tmp_path: Path) -> None:
    file = tmp_path / "star.yaml"
    sites = "[{name: bonn, org: ukb}, {name: aachen, org: uka}, {name: kiel, org: uksh}]"
    file.write_text(HEADER.replace("metropolis", "uniform") + f"graph: {{kind: star}}\nsites: {sites}\n")

    code, out, err = flaremesh("plan", file)

    assert code == 2
    assert "spectral gap" in out
    assert "write weights: metropolis" in err


def test_a_broken_file_ends_with_its_mistakes_and_without_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("name: [")

    code, out, err = flaremesh("plan", file)

    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {file}: 1 mistake")


def test_the_schema_is_written_to_a_file(tmp_path: Path) -> None:
    code, _, _ = flaremesh("schema", "--output", tmp_path / "topology.schema.json")

    assert code == 0
    assert json.loads((tmp_path / "topology.schema.json").read_text()) == Topology.model_json_schema()


def test_the_version_is_that_of_the_package() -> None:
    assert flaremesh("--version")[:2] == (0, f"{__version__}\n")


def test_a_thousand_sites_are_planned_in_less_than_five_seconds(tmp_path: Path) -> None:
    file = tmp_path / "thousand.yaml"
    sites = "".join(f"- {{name: site-{i}, org: consortium}}\n" for i in range(1000))
    file.write_text(f"{HEADER}graph: {{kind: random-regular, degree: 6}}\nsites:\n{sites}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)

    subprocess.run(
        [sys.executable, "-m", "flaremesh.cli.main", "plan", str(file)], check=True, stdout=subprocess.DEVNULL
    )

    # of the processor, not of the clock: other processes on the machine must not fail the test
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """All edges of `MEASURED`, of which one is slow."""
    names = ["a", "b", "c", "d"]
    edges = [
        MeasuredEdge(one, other, 0.02, rate := 1e5 if {one, other} == {"a", "c"} else 1e7, rate)
        for one in names
        for other in names
        if one != other
    ]
    file = tmp_path / "measured.json"
    file.write_text(to_json(Measurement("planned", "now", edges, [], {})))
    (tmp_path / "mesh.yaml").write_text(MEASURED)
    return file


MEASURED = """\
apiVersion: flaremesh/v1
name: planned
server: {host: flare.example.org, org: consortium}
admins: [{email: admin@consortium.org, org: consortium}]
sites: [{name: a, org: lab}, {name: b, org: lab}, {name: c, org: lab}, {name: d, org: lab}]
graph: {kind: complete}
run: {algorithm: gradient-tracking, stepsize: 0.1, iterations: 10,
  problem: {path: flaremesh.problems.digits.Digits}}
"""


def test_a_plan_tells_how_long_a_run_takes_on_the_edges_that_were_measured(measured: Path) -> None:
    code, out, err = flaremesh("plan", "mesh.yaml", "--build-problem", "--measured", measured, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    exact = document["times"][0]
    assert exact["wire"] == "exact"
    assert exact["payload_bytes"] == document["message"]["payload_bytes"]
    assert exact["seconds"] == pytest.approx(0.01 + exact["payload_bytes"] / 1e5)
    assert exact["run_seconds"] == pytest.approx(10 * exact["seconds"])

    code, out, _ = flaremesh("plan", "mesh.yaml", "--build-problem", "--measured", measured)
    assert code == 0
    (row,) = [line for line in out.splitlines() if line.split()[:1] == ["exact"]]
    assert f"{exact['payload_bytes']:,}" in row


def test_a_plan_draws_which_classes_each_site_has(measured: Path) -> None:
    code, _, err = flaremesh("plan", "mesh.yaml", "--build-problem", "--partition", "partition.svg")
    assert (code, err) == (0, "")
    assert Path("partition.svg").read_text().startswith("<?xml")
    (axes,) = plot_of(load(Path("mesh.yaml"))).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c", "d"]
    seen = [
        {label for label, bars in enumerate(axes.containers) if bars[site].get_width()} for site in range(4)
    ]
    assert seen == [set(classes_of(site, 4)) for site in range(4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--partition", "a.png"], "--build-problem"),
        (["--build-problem", "--partition", "a.txt"], "must end in .png"),
        (["--build-problem", "--partition", "mesh.yaml/a.png"], "mesh.yaml"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused(
    measured: Path, arguments: list[str], message: str
) -> None:
    code, _, err = flaremesh("plan", "mesh.yaml", *arguments)
    assert code == 2
    assert message in err


def test_a_problem_without_classes_cannot_be_drawn(measured: Path) -> None:
    Path("mesh.yaml").write_text(MEASURED.replace("digits.Digits", "consensus.Consensus"))
    code, _, err = flaremesh("plan", "mesh.yaml", "--build-problem", "--partition", "a.png")
    assert code == 1
    assert "the problem of a does not tell the classes of its samples" in err
    assert not Path("a.png").exists()


def test_a_measurement_alone_does_not_tell_how_long_a_run_takes(measured: Path) -> None:
    code, _, err = flaremesh("plan", "mesh.yaml", "--measured", measured)
    assert code == 2
    assert "--build-problem" in err


def test_what_is_proposed_can_be_written_into_the_file_and_is_best_then(measured: Path) -> None:
    before = Path("mesh.yaml").read_text()
    code, out, err = flaremesh("tune", "mesh.yaml", "--measured", measured)
    assert (code, err) == (0, "")
    assert Path("mesh.yaml").read_text() == before
    proposed = yaml.safe_load(out.partition("new kits:\n")[2])
    document = yaml.safe_load(before)
    edges = {frozenset((edge["from"], edge["to"])) for edge in proposed["graph"].get("edges", ())}
    assert frozenset("ac") not in edges
    run = document["run"] | proposed.pop("run", {})
    Path("mesh.yaml").write_text(yaml.safe_dump(document | proposed | {"run": run}))
    code, out, _ = flaremesh("tune", "mesh.yaml", "--measured", measured)
    assert code == 0
    assert "as good as any other" in out


def test_as_many_local_steps_are_proposed_as_take_as_long_as_an_exchange(measured: Path) -> None:
    file = Path("mesh.yaml")
    document = yaml.safe_load(file.read_text())
    document["run"] |= {"algorithm": "k-gt", "stepsize": 0.01}
    file.write_text(yaml.safe_dump(document))
    code, out, _ = flaremesh("tune", "mesh.yaml", "--measured", measured)
    assert code == 0
    steps = yaml.safe_load(out.partition("new kits:\n")[2])["run"]["local_steps"]
    # a message of two vectors of 4810 floats, at 1e7 bytes a second after 10 ms; a gradient takes about 1 ms
    assert 2 < steps <= 100


def test_an_algorithm_without_local_steps_is_proposed_none(measured: Path) -> None:
    code, out, _ = flaremesh("tune", "mesh.yaml", "--measured", measured, "--json")
    assert code == 0
    assert json.loads(out)["local_steps"] is None


@pytest.mark.parametrize(("exchange", "gradient", "steps"), [(1.0, 0.1, 10), (0.01, 1.0, 1), (9.0, 0.0, 100)])
def test_a_site_computes_as_long_as_it_exchanges(exchange: float, gradient: float, steps: int) -> None:
    assert local_steps(exchange, gradient) == steps
