"""What is found wrong when all participants' reports are put together."""

from dataclasses import replace
from pathlib import Path

import pytest

from flaremesh.cli import doctor
from flaremesh.deploy.targets.base import Participant
from flaremesh.deploy.watch.diagnosis import judge
from flaremesh.p2p.agents.doctor import Edge, Finding, Report
from flaremesh.topology.load import load
from flaremesh.topology.schema import Meet

TOPOLOGY = load(Path(__file__).parents[3] / "provision/ring3-consensus.yaml")
SITES = [site.name for site in TOPOLOGY.sites]
NAMES = ["server", *SITES]


def report(name, **fields):
    edges = [Edge(peer, "localhost:1", True, version="1") for peer in SITES if name not in ("server", peer)]
    versions = {"flaremesh": "1.0", "nvflare": "2.9", "torch": "2.13.0+cpu"}
    return replace(Report(name, versions, [], 200.0, 1 << 30, 0, None, edges, []), **fields)


@pytest.fixture
def reports():
    return {name: report(name) for name in NAMES}


def judged(reports, running=NAMES, topology=TOPOLOGY):
    participants = [Participant(name, name in running, name in running, "pid 1", None) for name in NAMES]
    return judge(topology, participants, reports)


def changed(links="auto", hidden=(), meet=None):
    """The topology with ``hidden`` sites that nobody can dial."""
    return TOPOLOGY.model_copy(
        update={
            "run": TOPOLOGY.run.model_copy(update={"links": links}),
            "server": TOPOLOGY.server.model_copy(update={"meet": meet}),
            "sites": tuple(
                site.model_copy(update={"link": None}) if site.name in hidden else site
                for site in TOPOLOGY.sites
            ),
        }
    )


def carried(diagnosis):
    return {(link.source, link.target): link.kind for link in diagnosis.links}


def test_a_mesh_whose_participants_are_well_is_well(reports):
    diagnosis = judged(reports)
    assert diagnosis.findings == []
    assert len(diagnosis.links) == 6
    assert all(link.ok for link in diagnosis.links)


def test_an_edge_is_shown_in_the_way_that_it_would_travel_in_a_run(reports):
    edges = {(source, target) for source in SITES for target in SITES if source != target}
    assert carried(judged(reports)) == dict.fromkeys(edges, "direct")
    one_hidden = carried(judged(reports, topology=changed(hidden=["bonn"])))
    assert one_hidden == {edge: "dialled back" if edge[1] == "bonn" else "direct" for edge in edges}
    hidden = dict.fromkeys(edges, "relayed")
    assert carried(judged(reports, topology=changed(hidden=SITES))) == hidden
    assert carried(judged(reports, topology=changed(hidden=SITES, meet=Meet()))) == dict.fromkeys(
        edges, "met"
    )
    assert carried(judged(reports, topology=changed("relay", meet=Meet()))) == hidden


def test_an_edge_is_not_met_where_one_end_does_not_reach_the_meeting_point(reports):
    reports |= {name: report(name, edges=[], meets=name != "bonn") for name in SITES}
    diagnosis = judged(reports, topology=changed(hidden=SITES, meet=Meet()))
    assert {(link.source, link.target) for link in diagnosis.links if link.ok} == {
        ("aachen", "heidelberg"),
        ("heidelberg", "aachen"),
    }
    assert {link.reason for link in diagnosis.links if not link.ok} == {"bonn cannot reach the meeting point"}


@pytest.mark.parametrize(
    ("links", "words"), [("direct", "needs an address at one"), ("met", "needs a meeting point")]
)
def test_two_neighbours_for_which_no_way_is_allowed_are_found_with_the_remedy(reports, links, words):
    reports |= {name: report(name, edges=[]) for name in SITES}
    diagnosis = judged(reports, topology=changed(links, hidden=SITES))
    assert {link.ok for link in diagnosis.links} == {False}
    (finding,) = diagnosis.findings
    assert words in finding.what
    assert sum(site in finding.what for site in SITES) == 2
    assert finding.remedy.startswith("Write ")
    assert "links: auto" in finding.remedy


def test_who_is_not_confined_is_shown_and_is_no_finding(reports, capsys):
    reports["bonn"] = report("bonn", confined=False)
    diagnosis = judged(reports)
    assert diagnosis.findings == []
    doctor._show(diagnosis)
    assert "can read the key there: bonn. " in capsys.readouterr().out


def test_who_does_not_run_is_named_once_and_its_edges_are_not_judged(reports):
    failed = [Edge("bonn", "localhost", False, "no answer", "start it")]
    reports["aachen"] = report(
        "aachen",
        edges=[*failed, Edge("heidelberg", "localhost:1", True)],
        findings=[Finding("aachen", "no answer", "start it", "bonn")],
    )
    reports["bonn"] = None
    diagnosis = judged(reports, running=[name for name in NAMES if name != "bonn"])
    assert [finding.what for finding in diagnosis.findings] == ["bonn does not run."]
    assert {link.target for link in diagnosis.links if link.source == "bonn" and link.ok is None} == {
        "aachen",
        "heidelberg",
    }


def test_who_is_elsewhere_is_no_finding_and_is_said_not_to_be_looked_at(reports):
    reports["bonn"] = None
    participants = [
        Participant(name, name != "bonn", name != "bonn", "pod", None, elsewhere=name == "bonn")
        for name in NAMES
    ]
    diagnosis = judge(TOPOLOGY, participants, reports)
    assert (diagnosis.findings, diagnosis.elsewhere) == ([], ["bonn"])
    assert all(link.ok is None for link in diagnosis.links if link.source == "bonn")


def test_who_runs_and_gives_no_report_is_named(reports):
    reports["server"] = None
    (finding,) = judged(reports).findings
    assert finding.participant == "server"
    assert "gives no report" in finding.what


@pytest.mark.parametrize(("days", "found"), [(29.0, True), (31.0, False)])
def test_a_certificate_in_its_last_month_is_found(reports, days, found):
    reports["bonn"] = report("bonn", certificate_days=days)
    findings = judged(reports).findings
    assert [finding.participant for finding in findings] == (["bonn"] if found else [])


def test_another_version_than_the_servers_is_found(reports):
    versions = {"flaremesh": "1.1", "nvflare": "2.9", "torch": "2.13.0+cpu"}
    reports["bonn"] = report("bonn", versions=versions)
    (finding,) = judged(reports).findings
    assert finding.what == "bonn has flaremesh 1.1, and server has 1.0."


def test_torch_for_another_device_is_the_same_version(reports):
    versions = {"flaremesh": "1.0", "nvflare": "2.9", "torch": "2.13.0+cu130"}
    reports["bonn"] = report("bonn", versions=versions)
    assert judged(reports).findings == []


def test_a_kit_for_other_neighbours_is_found(reports):
    reports["bonn"] = report("bonn", edges=[])
    (finding,) = judged(reports).findings
    assert "other neighbours" in finding.what
