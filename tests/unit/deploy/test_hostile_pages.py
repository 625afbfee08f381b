"""What an admin's commands make of pages and reports that a compromised participant serves."""

import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from flaremesh.cli.outputs import terminal
from flaremesh.cli.progress import progress_table, result_table
from flaremesh.cli.screen import screen
from flaremesh.deploy.watch.diagnosis import judge
from flaremesh.deploy.watch.scrapes import Scrape
from flaremesh.deploy.watch.top import Recent
from flaremesh.metrics.names import AgentMetric, RunMetric
from flaremesh.p2p.agents.doctor import Report
from flaremesh.p2p.outcome import RUN_RESULT, SITE_RESULT
from flaremesh.p2p.progress import SITE_PROGRESS
from flaremesh.topology.schema import SERVER, Topology

TOPOLOGY = Topology.model_validate(
    {
        "apiVersion": "flaremesh/v1",
        "name": "pair",
        "server": {"host": "localhost", "org": "lab"},
        "admins": [{"email": "admin@lab.org", "org": "lab"}],
        "sites": [{"name": name, "org": "lab"} for name in ("bonn", "ulm")],
        "graph": {"kind": "ring"},
        "run": {
            "algorithm": "dgd",
            "iterations": 9,
            "problem": {"path": "flaremesh.problems.consensus.Consensus"},
        },
    }
)
EVIL = "\x1b[2J\x1b]8;;http://evil\x07[red]:smiley:[/red]\u202e"

VALUES = st.floats() | st.sampled_from([0.0, 1.0, 2.0, -1.0, 1e18, 1e300, 5e-324, math.inf])
WORDS = st.sampled_from(
    ["0", "run-1", "bonn", "running", "failed", "compute", "wait", "direct", "[red]", EVIL]
)
FULL_NAMES = [
    metric.value.full_name + part
    for metric in (*RunMetric, *AgentMetric)
    for part in (("_count", "_sum", "_bucket") if metric.value.kind == "histogram" else ("",))
]
LABELS = {
    metric.value.full_name: (*(("slot",) if metric in set(RunMetric) else ()), *metric.value.labels)
    for metric in (*RunMetric, *AgentMetric)
}


INFO = 'flaremesh_run_info{slot="0",run_id="run-1",attempt="run-1",algorithm="dgd",topology="pair"} 1\n'
STATE = 'flaremesh_run_state{slot="0",state="running"} 1\n'


def line(name, values=VALUES, words=WORDS):
    """A series of a metric, its labels and its value anything."""
    labels = LABELS.get(name.removesuffix("_count").removesuffix("_sum").removesuffix("_bucket"), ())
    told = st.fixed_dictionaries({label: st.just("0") if label == "slot" else words for label in labels})

    def written(told, value):
        inner = ",".join(f'{label}="{word}"' for label, word in told.items())
        return f"{name}{{{inner}}} {value}\n"

    return st.builds(written, told, values)


STRANGE = st.lists(st.sampled_from(FULL_NAMES).flatmap(line), max_size=20)
PLAUSIBLE = st.tuples(*(line(name, words=st.sampled_from(["bonn", "wait", "direct"])) for name in FULL_NAMES))
PAGES = st.binary() | st.builds(
    lambda *lines: "".join([INFO, STATE, *lines[0], *lines[1]]).encode(), PLAUSIBLE, STRANGE
)


def printed(renderable, console):
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def plain(width=200):
    return Console(file=io.StringIO(), width=width, color_system=None, markup=False, emoji=False)


@given(pages=st.lists(st.tuples(PAGES, PAGES, PAGES), min_size=1, max_size=2))
@settings(deadline=None)
def test_top_shows_whatever_is_served(pages):
    recent = Recent(TOPOLOGY)
    for when, look in enumerate(pages):
        for name, page in zip((SERVER, "bonn", "ulm"), look, strict=True):
            recent.add(name, Scrape.of(page, when))
    console = plain()
    shown = printed(screen(recent.view(len(pages)), str, console), console)
    assert all(line.isprintable() for line in shown.splitlines())
    assert len(shown) < 100_000


@pytest.mark.parametrize(
    "page", [b"\xff", b"x" * 1000, b"flaremesh_ready{ 1", b"# TYPE a b c d\n", b"a{b=} 1"]
)
def test_a_page_of_something_else_says_nothing(page):
    scrape = Scrape.of(page, 0.0)
    assert scrape.value(AgentMetric.READY) is None


def test_a_page_lists_no_more_runs_than_there_can_be():
    page = "".join(INFO.replace("run-1", f"run-{n}") for n in range(1000))
    assert len(Scrape.of(page.encode(), 0.0).runs()) == 64


def report(**lies):
    return {
        "name": "bonn",
        "versions": {"flaremesh": "1"},
        "missing": [],
        "certificate_days": 100.0,
        "free_bytes": 1,
        "gpus": 0,
        "visible_gpus": None,
        "edges": [],
        "findings": [],
    } | lies


@pytest.mark.parametrize(
    "lie",
    [
        {"versions": 3},
        {"free_bytes": "much"},
        {"edges": [{"peer": "ulm"}]},
        {"findings": [{"participant": "bonn", "what": [], "remedy": ""}]},
        {"missing": ["x"] * 65},
        {"name": "n" * 257},
    ],
    ids=str,
)
def test_a_report_of_another_form_is_none(lie):
    Report.from_json(json.dumps(report()).encode())
    with pytest.raises(ValueError, match="what an agent serves is not a report: "):
        Report.from_json(json.dumps(report(**lie)).encode())


def test_a_participant_finds_faults_with_itself_alone_and_in_printable_words():
    findings = [{"participant": name, "what": EVIL, "remedy": "r" * 9999} for name in ("bonn", "ulm")]
    told = Report.from_json(json.dumps(report(findings=findings)).encode())
    (finding,) = judge(TOPOLOGY, [], {"bonn": told}).findings
    assert finding.participant == "bonn"
    assert finding.what.isprintable()
    assert len(finding.remedy) == 2000


def test_tables_show_markup_as_it_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    name = "[red]:smiley:[link=http://evil]x[/link]"
    told = json.dumps({"iteration": 1, "links": {"bonn": "relayed"}, "metrics": {name: 1.0}})
    site = SITE_RESULT.of({"iterations": 1, "metrics": {name: 1.0}}, "bonn")
    console = terminal()
    sites = {name: SITE_PROGRESS.read(told, "bonn")}
    assert printed(progress_table(sites, f"run 1 ({name}): x"), console).count(name) == 2
    result = RUN_RESULT.of({"run_id": "1", "outcome": "finished"}, "server")
    result.sites[name] = site
    assert printed(result_table(result), console).count(name) == 2
