"""Reports of simulated runs: the histories are written by the code of a real run."""

import json
import shutil
from base64 import b64decode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from typer.testing import CliRunner

from flaremesh.cli.main import app
from flaremesh.deploy.reports import graph_plot, plots
from flaremesh.deploy.reports.contraction import Distance, consensus_distance, fit_contraction
from flaremesh.deploy.reports.report import write_report
from flaremesh.deploy.reports.style import DARK, LIGHT, Theme
from flaremesh.deploy.runs.results import RecordedRun, load_run
from flaremesh.metrics.names import RunState
from flaremesh.p2p.outcome import RESULT, RUN_RESULT, Graph, RunResult, SiteResult
from flaremesh.record import RecordError
from flaremesh.runtime.history import HISTORY, History
from flaremesh.runtime.simulate import simulation_of
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology

CONSENSUS = {
    "algorithm": "consensus",
    "iterations": 120,
    "problem": {"path": "flaremesh.problems.consensus.Consensus", "args": {"dimension": 16}},
}
DIGITS = {
    "algorithm": "gradient-tracking",
    "iterations": 12,
    "stepsize": 0.05,
    "problem": {"path": "flaremesh.problems.digits.Digits"},
}
MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """A function that simulates a run and returns its folder."""

    def make(run: dict[str, Any], sites: int, graph: dict[str, Any], **topology: Any) -> Path:
        mesh_file = Topology.model_validate(
            {
                "apiVersion": "flaremesh/v1",
                "name": "mesh",
                "server": {"host": "localhost", "org": "lab"},
                "admins": [{"email": "admin@lab.org", "org": "lab"}],
                "sites": [{"name": f"site-{number}", "org": "lab"} for number in range(sites)],
                "graph": graph,
                "run": run,
                **topology,
            }
        )
        mesh = build(mesh_file)
        with simulation_of(mesh_file.run, mesh) as simulation:
            simulation.run()
        folder = tmp_path_factory.mktemp("runs") / "run-1"
        for site, seen in simulation.histories.items():
            (folder / site).mkdir(parents=True)
            with History(folder / site / HISTORY) as history:
                for record in (*seen.evaluations, *seen.iterations):
                    history.add(record)
        result = RunResult(
            run_id="run-1",
            name="a run",
            outcome=RunState.FINISHED,
            algorithm=run["algorithm"],
            topology=mesh_file.name,
            iterations=run["iterations"],
            seconds=simulation.seconds,
            predicted_contraction=mesh.properties.contraction,
            sites={
                site: SiteResult(
                    iterations=seen.last_iteration,
                    metrics=seen.last_metrics,
                    seconds=simulation.seconds,
                    sent_bytes=dict.fromkeys(mesh.schedules[site][0].out, 1000 * seen.last_iteration),
                )
                for site, seen in simulation.histories.items()
            },
            graph=Graph(list(mesh.sites), [matrix.tolist() for matrix in mesh.matrices]),
        )
        (folder / RESULT).write_text(RUN_RESULT.json(result))
        return folder

    return make


@pytest.fixture(scope="module")
def ring_of_eight(make_run: MakeRun) -> Path:
    return make_run(CONSENSUS, 8, {"kind": "ring"})


@pytest.fixture(scope="module")
def trained(make_run: MakeRun) -> Path:
    return make_run(DIGITS, 4, {"kind": "ring"})


@pytest.fixture
def digits(trained: Path, tmp_path: Path) -> Path:
    """A copy of a training run, to be damaged."""
    return shutil.copytree(trained, tmp_path / "run-1")


def change_result(folder: Path, **fields: Any) -> None:
    document = json.loads((folder / RESULT).read_text())
    (folder / RESULT).write_text(json.dumps(document | fields))


def page_of(folder: Path) -> str:
    return write_report(folder, folder / "report").page.read_text()


def text(page: str) -> str:
    """What a reader sees, with single spaces."""
    found: list[str] = []

    class Text(HTMLParser):
        def handle_data(self, data: str) -> None:
            found.append(data)

    Text().feed(page)
    return " ".join(" ".join(found).split())


def test_a_ring_of_eight_contracts_at_its_predicted_rate(ring_of_eight: Path, tmp_path: Path) -> None:
    report = write_report(ring_of_eight, tmp_path)
    ring = 1 / 3 + 2 / 3 * np.cos(2 * np.pi / 8)  # of Metropolis weights 1/3
    assert report.predicted_contraction == pytest.approx(ring)
    assert report.fitted_contraction == pytest.approx(ring, rel=0.02)


def test_what_training_has_logged_is_a_figure_by_its_own_steps(digits: Path) -> None:
    with (digits / "site-1" / HISTORY).open("a") as history:
        for step in range(3):
            history.write(f'{{"iteration": 1, "step": {step}, "logged": {{"<b>lr</b>": 0.5, "n": null}}}}\n')
    run = load_run(digits)
    with LIGHT.applied():
        figure = plots.logged(run, LIGHT)
    (axes,) = figure.axes
    (line,) = axes.lines
    assert axes.get_title(loc="left") == "<b>lr</b>"
    assert (line.get_label(), [*line.get_xdata()], [*line.get_ydata()]) == ("site-1", [0, 1, 2], [0.5] * 3)
    assert "logged" in write_report(digits, digits / "report").figures


def test_training_gives_five_figures_and_one_page(digits: Path) -> None:
    report = write_report(digits, digits / "report")
    assert list(report.figures) == ["loss", "accuracy", "consensus", "graph", "time"]
    for path in report.figures.values():
        pixels = matplotlib.image.imread(path)
        assert pixels.std() > 0.01
    assert sorted(path.name for path in report.page.parent.iterdir()) == sorted(
        ["index.html", *(path.name for path in report.figures.values())]
    )


def test_what_a_run_did_not_record_gets_no_figure(make_run: MakeRun) -> None:
    folder = make_run(CONSENSUS, 3, {"kind": "ring"})
    assert list(write_report(folder, folder / "report").figures) == ["consensus", "graph", "time"]


def test_a_folder_that_somebody_mailed_starts_no_typesetter(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matplotlibrc there is read before any of our settings."""
    monkeypatch.setitem(mpl.rcParams, "text.usetex", True)
    monkeypatch.setenv("PATH", str(tmp_path))  # in which there is no TeX
    assert write_report(digits, tmp_path / "report").page.exists()


def test_the_page_needs_no_other_file_and_no_script(digits: Path) -> None:
    references: list[str] = []

    class Page(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            assert tag not in {"script", "link"}
            references.extend(
                value for name, value in attributes if name in {"src", "srcset", "href"} and value
            )

    page = page_of(digits)
    Page().feed(page)
    assert len(references) == 2 * 5  # light and dark
    for reference in references:
        kind, _, data = reference.partition(",")
        assert kind == "data:image/png;base64"
        assert b64decode(data, validate=True).startswith(b"\x89PNG")
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_says_how_the_run_ended_and_what_each_site_did(digits: Path) -> None:
    page = page_of(digits)
    result = load_run(digits).result
    assert "finished" in text(page)
    assert "gradient-tracking" in text(page)
    for name, site in result.sites.items():
        assert f"{name} {site.iterations} " in text(page)
        assert f"{site.metrics['accuracy']:.4g}" in text(page)
    assert "24 kB to 2 peers" in text(page)


def test_a_failed_run_reports_its_reason_and_who_left_no_history(digits: Path) -> None:
    change_result(digits, outcome="failed", reason="site-2: <KeyError> in the problem")
    (digits / "site-2" / HISTORY).unlink()
    page = text(page_of(digits))
    assert "failed" in page
    assert "site-2: <KeyError> in the problem" in page
    assert "no history of site-2" in page


def without(folder: Path, *ranges: tuple[int, set[str]]) -> RecordedRun:
    """The run as if these sites had been lost for good at these iterations."""
    sites = load_run(folder).sites
    members = [
        {"since": since, "sites": [site for site in sites if site not in gone]} for since, gone in ranges
    ]
    change_result(folder, members=members)
    return load_run(folder)


def bands(figure: Figure | None) -> dict[str, tuple[float, float]]:
    """What the legend says of the shaded stretches, and from where to where each of them goes."""
    assert figure is not None
    axes = figure.axes[0]
    told = [text.get_text() for legend in axes.findobj(Legend) for text in legend.get_texts()]
    shaded = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    return dict(
        zip([said for said in told if "without" in said], [(box.x0, box.x1) for box in shaded], strict=True)
    )


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["loss", "accuracy", "consensus"])
def test_the_iterations_that_were_done_without_a_site_are_shaded_and_named(
    digits: Path, name: str, theme: Theme
) -> None:
    run = without(digits, (0, set()), (5, {"site-2"}), (8, {"site-2", "site-0"}))
    distance = consensus_distance(run.histories.values())
    draw = {
        "loss": lambda: plots.loss(run, theme),
        "accuracy": lambda: plots.accuracy(run, theme),
        "consensus": lambda: plots.consensus(run, distance, None, theme),
    }
    with theme.applied():
        figure = draw[name]()
        assert figure is not None
        figure.draw_without_rendering()
    right = figure.axes[0].get_xlim()[1]
    assert right > 12
    assert bands(figure) == {
        "without site-2, from iteration 5": pytest.approx((5, 8)),
        "without site-0, site-2, from iteration 8": pytest.approx((8, right)),
    }


@pytest.mark.parametrize("ranges", [[], [(0, set())], [(0, set()), (99, {"site-2"})]], ids=str)
def test_a_run_with_all_of_its_sites_is_not_shaded(digits: Path, ranges: list[tuple[int, set[str]]]) -> None:
    run = without(digits, *ranges)
    with LIGHT.applied():
        assert bands(plots.loss(run, LIGHT)) == {}


def test_the_names_of_many_missing_sites_are_a_number(ring_of_eight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ring_of_eight, tmp_path / "run-1")
    run = without(folder, (0, set()), (60, {f"site-{number}" for number in range(7)}))
    with LIGHT.applied():
        figure = plots.consensus(run, consensus_distance(run.histories.values()), None, LIGHT)
    assert list(bands(figure)) == ["without 7 sites, from iteration 60"]


def test_the_distance_is_that_of_the_sites_that_are_left(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(digits, (0, set()), (5, {"site-2"}))
    history = digits / "site-2" / HISTORY
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:4]))
    drawn: list[Distance] = []
    monkeypatch.setattr(plots, "consensus", lambda run, distance, fit, theme: drawn.append(distance))
    write_report(digits, digits / "report")
    assert {distance.iterations[-1] for distance in drawn} == {12}


def test_a_run_without_a_result_is_reported_from_its_histories(digits: Path) -> None:
    (digits / RESULT).unlink()
    report = write_report(digits, digits / "report")
    assert list(report.figures) == ["loss", "accuracy", "consensus", "time"]
    assert "unfinished" in text(report.page.read_text())


def test_a_run_that_never_began_has_a_page_without_figures(digits: Path) -> None:
    for history in digits.glob(f"*/{HISTORY}"):
        history.unlink()
    change_result(digits, outcome="failed", reason="site-0 did not come up", sites={}, graph=None)
    report = write_report(digits, digits / "report")
    assert not report.figures
    assert report.fitted_contraction is None
    assert "nothing that could be drawn" in text(report.page.read_text())


def test_a_line_that_a_killed_site_left_half_written_is_dropped(digits: Path) -> None:
    path = digits / "site-1" / HISTORY
    before = len(load_run(digits).histories["site-1"].iterations)
    path.write_bytes(path.read_bytes()[:-20])
    assert len(load_run(digits).histories["site-1"].iterations) == before - 1


def test_a_diverged_run_is_drawn_as_far_as_its_numbers_go(digits: Path) -> None:
    path = digits / "site-1" / HISTORY
    *lines, last = path.read_text().splitlines()
    diverged = json.loads(last) | {"loss": None, "consensus_distance": None}
    path.write_text("\n".join([*lines, json.dumps(diverged)]) + "\n")
    assert np.isnan(consensus_distance(load_run(digits).histories.values()).values[-1])
    assert "consensus" in write_report(digits, digits / "report").figures


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("not json\n{}\n", r"site-1/history.jsonl, line 1, is not a record of a history: Invalid JSON"),
        (
            '{"iteration": 1}\n',
            r"site-1/history.jsonl, line 1, is not a record of a history: iteration.loss: Field required",
        ),
        ("7\n{}\n", r"site-1/history.jsonl, line 1"),
    ],
)
def test_a_broken_history_is_refused_by_file_and_line(digits: Path, broken: str, message: str) -> None:
    (digits / "site-1" / HISTORY).write_text(broken)
    with pytest.raises(RecordError, match=message):
        load_run(digits)


def test_a_broken_result_is_refused_by_field(digits: Path) -> None:
    change_result(digits, outcome="great")
    with pytest.raises(RecordError, match=r"result\.json is not the result of a run: outcome"):
        load_run(digits)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("sites", [3, 8, 24, 64])
def test_a_site_keeps_its_colour_in_every_figure(make_run: MakeRun, sites: int, theme: Theme) -> None:
    run = load_run(make_run(CONSENSUS | {"iterations": 2}, sites, {"kind": "ring"}))
    with theme.applied():
        figure = graph_plot.graph(run, theme)
        assert figure is not None
        figure.draw_without_rendering()
    (nodes,) = figure.axes[0].collections
    colours = {tuple(colour) for colour in nodes.get_facecolor()}
    assert len(colours) == (sites if sites > 24 else min(sites, 8))


def test_arrows_show_where_values_travel_on_a_directed_graph(make_run: MakeRun) -> None:
    edges = [
        {"from": "site-0", "to": "site-1"},
        {"from": "site-1", "to": "site-2"},
        {"from": "site-2", "to": "site-0"},
    ]
    run = load_run(make_run(CONSENSUS, 3, {"edges": edges, "directed": True}, weights="uniform"))
    with LIGHT.applied():
        figure = graph_plot.graph(run, LIGHT)
    assert figure is not None
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "3 sites on 3 directed edges"
    sites = axes.collections[0].get_offsets()

    def nearest(point: np.ndarray) -> int:
        return int(np.argmin(np.linalg.norm(sites - point, axis=1)))

    ends = [
        [nearest(path[0]), nearest(path[-3])]  # where it starts, and the tip of its head
        for path in (arrow.get_path().vertices for arrow in axes.patches)
    ]
    assert sorted(ends) == [[0, 1], [1, 2], [2, 0]]


@pytest.fixture
def iterations() -> np.ndarray:
    return np.arange(1, 401)


@pytest.mark.parametrize("contraction", [0.5, 0.8, 0.99])
def test_the_fit_ignores_fast_modes_and_the_floor(iterations: np.ndarray, contraction: float) -> None:
    k = iterations - 1.0
    values = 5 * (contraction / 2) ** k + contraction**k + 1e-4
    fit = fit_contraction(Distance(iterations, values))
    assert fit is not None
    assert fit.contraction == pytest.approx(contraction, rel=0.02)


def test_nothing_is_fitted_to_noise_or_growth_or_a_handful_of_points(iterations: np.ndarray) -> None:
    noise = np.random.default_rng(0).uniform(1, 2, size=len(iterations))
    for values in (noise, 1.01**iterations, np.zeros(len(iterations)), np.full(len(iterations), np.nan)):
        assert fit_contraction(Distance(iterations, values)) is None
    assert fit_contraction(Distance(iterations[:4], 0.5 ** iterations[:4])) is None


def test_the_command_prints_the_page_and_the_measured_contraction(ring_of_eight: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(ring_of_eight)])
    assert result.exit_code == 0
    assert str(ring_of_eight / "report" / "index.html") in result.output
    assert "measured contraction 0.80" in result.output


def test_the_command_prints_json(ring_of_eight: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["report", str(ring_of_eight), "--output", str(tmp_path / "out"), "--json"]
    )
    document = json.loads(result.stdout)
    assert Path(document["page"]) == tmp_path / "out" / "index.html"
    assert all(Path(path).is_file() for path in document["figures"].values())
    assert document["fitted_contraction"] == pytest.approx(document["predicted_contraction"], rel=0.02)


def test_the_command_says_what_a_run_folder_is(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no run" in result.output


def test_a_folder_that_somebody_made_up_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    name, folder = "$\\frac{<b>$", tmp_path / "run-1"
    (folder / name).mkdir(parents=True)
    figures = {"consensus_distance": 1e308, "seconds": 0, "wait_seconds": 1e12, "gradient_seconds": 5e-324}
    lines = [
        {"iteration": iteration, "loss": loss, **figures}
        for iteration, loss in ((0, 1e308), (1 << 53, -1e308), (3, 5e-324))
    ]
    (folder / name / HISTORY).write_text("".join(json.dumps(line) + "\n" for line in lines))
    graph = {"sites": [name, "x"], "matrices": [[[1e3, -1e3], [0, 0]]]}
    lie = {"run_id": "<script>", "outcome": "failed", "reason": "<script>\x1b[2J", "graph": graph}
    (folder / RESULT).write_text(json.dumps(lie | {"sites": {name: {"metrics": {"<i>": None}}}}))
    page = write_report(folder, tmp_path / "report").page.read_text()
    assert "<script>" not in page
    assert "<i>" not in page
    assert "\x1b" not in page
