"""Several runs on one page."""

import json
import re
from html import unescape

import pytest
from typer.testing import CliRunner

from flaremesh.cli.main import app
from flaremesh.deploy.reports.comparison import write_comparison
from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.p2p.outcome import RESULT, RUN_RESULT, RunResult, SiteResult
from flaremesh.runtime.history import HISTORY, History


@pytest.fixture
def leave(tmp_path):
    """Leaves a run's folder: two sites, whose accuracy rises to some values."""

    def make(run_id, name, accuracies, seconds=3.0):
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True)
        for site, accuracy in accuracies.items():
            (folder / site).mkdir()
            with History(folder / site / HISTORY) as history:
                for iteration in range(1, 11):
                    history.add(Iteration(iteration, 1 / iteration, 0.5**iteration, 0.1, 0.0, 0.1))
                history.add(Evaluation(0, {"accuracy": 0.1, "loss": 2.0}))
                history.add(Evaluation(10, {"accuracy": accuracy, "loss": 1 - accuracy}))
        sites = {site: SiteResult(10, sent_bytes={"x": 1_500_000}) for site in accuracies}
        result = RunResult(run_id, "finished", name=name, algorithm="dgd", seconds=seconds, sites=sites)
        (folder / RESULT).write_text(RUN_RESULT.json(result))
        return folder

    return make


def rows(page):
    """The cells of each row of the table, as a reader sees them."""
    return [
        [
            " ".join(unescape(re.sub("<[^>]*>", " ", cell)).split())
            for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    ]


def test_the_table_has_a_row_for_each_run_and_says_what_its_worst_site_has_come_to(leave, tmp_path):
    folders = [
        leave("aaaa", "slow & steady", {"bonn": 0.7, "ulm": 0.8}),
        leave("bbbb", "quick", {"bonn": 0.95, "ulm": 0.9}, seconds=None),
    ]
    page = write_comparison(folders, tmp_path / "comparison").read_text()
    head, *found = rows(page)
    assert head == [
        *("run", "sites", "iterations", "accuracy, worst site", "loss, worst site"),
        *("consensus distance", "sent by a site", "seconds", "algorithm"),
    ]
    distance = f"{2**0.5 * 0.5**10:.3g}"
    assert found == [
        ["slow & steady finished", "2", "10", "0.7", "0.3", distance, "1.5 MB", "3", "dgd"],
        ["quick finished", "2", "10", "0.9", "0.1", distance, "1.5 MB", "–", "dgd"],
    ]
    assert len(re.findall("<figure>", page)) == 3
    assert "<script" not in page


def test_runs_of_one_name_are_told_apart_and_those_without_a_site_have_a_row(leave, tmp_path):
    folders = [leave("aaaa1111-2", "dgd", {"bonn": 0.7}), leave("bbbb2222-3", "dgd", {})]
    (_, first, second) = rows(write_comparison(folders, tmp_path / "comparison").read_text())
    assert (first[0], second[0]) == ("dgd aaaa1111 finished", "dgd bbbb2222 finished")
    assert second[2:6] == ["0", "–", "–", "–"]


def test_the_command_wants_a_folder_for_the_page(leave, tmp_path):
    folders = [str(leave(name, name, {"bonn": 0.7})) for name in ("aaaa", "bbbb")]
    refused = CliRunner().invoke(app, ["report", *folders])
    assert refused.exit_code == 2
    assert "--output" in refused.stderr
    told = CliRunner().invoke(app, ["report", *folders, "--output", str(tmp_path / "both"), "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == {"page": str(tmp_path / "both" / "index.html")}
