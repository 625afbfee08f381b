"""A participant's report on itself and on the edges that it dials."""

import json
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from flaremesh.p2p.agents import doctor
from flaremesh.p2p.agents.doctor import (
    Doctor,
    Edge,
    Finding,
    Report,
    invite,
    try_edges,
    try_meeting,
    turn_away,
)
from flaremesh.p2p.agents.probe import Invitation, ProbeListener
from flaremesh.p2p.charter import Peer
from flaremesh.provision.kits import provision
from flaremesh.provision.stamp import digest
from flaremesh.sandbox import landlock
from flaremesh.topology.links import LinkKind
from flaremesh.topology.load import load

RING = Path(__file__).parents[3] / "provision/ring3-consensus.yaml"

GOOD = Report(
    name="bonn",
    versions={"flaremesh": "1"},
    missing=[],
    certificate_days=100.0,
    free_bytes=1,
    gpus=0,
    visible_gpus=None,
    edges=[Edge("ulm", "localhost:1", False, "no link", "make one")],
    findings=[Finding("bonn", "no link", "make one", "ulm")],
)


def test_a_report_is_read_as_it_was_written():
    assert Report.from_json(GOOD.to_json()) == GOOD


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"edges": [], "findings": [], "other": 1}'])
def test_what_is_no_report_is_refused(document):
    with pytest.raises(ValueError, match=r"\S"):
        Report.from_json(document)


def test_one_examination_at_a_time_serves_all_who_ask(monkeypatch):
    examined = []

    def examine():
        examined.append(time.monotonic())
        return GOOD

    patient = Doctor(examine)
    threads = [threading.Thread(target=patient.report) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(examined) == 1
    monkeypatch.setattr(doctor, "_FRESH_SECONDS", 0.0)
    patient.report()
    assert len(examined) == 2


def peers(port, *names, host="localhost"):
    """What the kit of bonn says of sites."""
    carriers = (LinkKind.DIRECT,)
    return {name: Peer(True, True, carriers, host, (port, port)) for name in (*names, "ulm")}


def test_edges_are_tried_at_once_and_each_has_its_own_outcome(authority, port):
    ulm = ProbeListener("ulm", "localhost", (port, port), authority.issue("ulm"))
    answers = {
        "ulm": lambda: invite(ulm.expect("bonn")),
        "away": lambda: None,
        "busy": lambda: turn_away("all ports are taken", "", wrong=False),
        "strict": lambda: turn_away("no such edge", "provision", wrong=True),
        "shifted": lambda: invite(ulm.expect("bonn")),
    }
    started = time.monotonic()
    edges = try_edges(
        "bonn",
        dict.fromkeys(answers, "localhost") | {"shifted": "nowhere.invalid"},
        peers(port, *answers) | peers(port, "shifted", host="nowhere.invalid") | peers(port),
        lambda peer, timeout: answers[peer](),
        authority.issue("bonn"),
    )
    assert time.monotonic() - started < 10
    found = {edge.peer: edge for edge in edges}
    assert {peer: edge.ok for peer, edge in found.items()} == {
        "ulm": True,
        "away": False,
        "busy": None,
        "strict": False,
        "shifted": False,
    }
    assert "away does not answer" in found["away"].reason
    assert found["strict"].remedy == "provision"
    assert "nowhere.invalid" in found["shifted"].reason


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff",
        b"7",
        b"{}" * 2,
        b'{"port": 0, "run": "x"}',
        b'{"port": 1e9, "run": "x"}',
        b'{"port": "ssh"}',
        b'{"why": {}}',
    ],
)
def test_a_peer_that_answers_nonsense_is_named(authority, answer):
    (edge,) = try_edges(
        "bonn", {"ulm": "localhost"}, {}, lambda peer, timeout: answer, authority.issue("bonn")
    )
    assert edge.ok is False
    assert edge.reason.startswith("what ulm answers is not an answer to the request to be dialled: ")


def test_the_words_of_a_peer_are_printable(authority):
    told = turn_away("\x1b[2J" * 9999, "\n", wrong=True)
    (edge,) = try_edges("bonn", {"ulm": "localhost"}, {}, lambda peer, timeout: told, authority.issue("bonn"))
    assert edge.reason.isprintable()
    assert len(edge.reason) == 2000


def test_who_is_late_to_answer_is_asked_again(authority, port):
    ulm = ProbeListener("ulm", "localhost", (port, port), authority.issue("ulm"))
    answers = iter([None, invite(ulm.expect("bonn"))])
    (edge,) = try_edges(
        "bonn",
        {"ulm": "localhost"},
        peers(port),
        lambda peer, timeout: next(answers),
        authority.issue("bonn"),
    )
    assert edge.ok, edge.reason


def test_no_place_is_dialled_that_the_kit_does_not_have(authority, port):
    with socket.create_server(("localhost", 0)) as elsewhere:
        elsewhere.settimeout(0.2)
        told = invite(Invitation(elsewhere.getsockname()[1], "run"))
        for known in (peers(port), {}):
            (edge,) = try_edges(
                "bonn", {"ulm": "localhost"}, known, lambda peer, timeout: told, authority.issue("bonn")
            )
            assert edge.ok is False
            assert "not its place in the kit" in edge.reason
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_an_edge_that_hangs_does_not_hold_up_the_report(authority, monkeypatch):
    monkeypatch.setattr(doctor, "_EDGES_SECONDS", 0.1)
    end = threading.Event()
    (edge,) = try_edges(
        "bonn", {"ulm": "localhost"}, {}, lambda peer, timeout: end.wait() and None, authority.issue("bonn")
    )
    end.set()
    assert edge.ok is False
    assert "within 0.1 s" in edge.reason


def test_a_site_that_reaches_the_meeting_point_is_well_and_one_that_does_not_names_it(kit, port):
    with socket.create_server(("localhost", port)):
        assert examined(kit, meeting=try_meeting("bonn", ("localhost", port))).meets
    report = examined(kit, meeting=try_meeting("bonn", ("localhost", port)))
    assert report.meets is False
    (finding,) = report.findings
    told = f"bonn does not reach the meeting point at localhost:{port}: Connection refused."
    assert (finding.what, finding.peer) == (told, None)
    assert "HTTPS_PROXY" in finding.remedy
    assert examined(kit).meets is None


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    return provision(load(RING), folder).kits


@pytest.fixture
def kit(kits, tmp_path):
    return shutil.copytree(kits["bonn"], tmp_path / "bonn")


def examined(workspace, missing=(), gpus=0, edges=(), meeting=None):
    return doctor.examine("bonn", workspace, missing, time.time() + 86_400 * 10, gpus, edges, meeting)


def test_an_examination_tells_of_certificate_storage_and_versions(kit):
    report = examined(kit)
    assert report.certificate_days == pytest.approx(10, abs=0.1)
    assert report.free_bytes > 0
    assert set(report.versions) == {"flaremesh", "nvflare", "torch"}
    assert json.loads(report.to_json())["name"] == "bonn"


def test_a_site_that_is_not_registered_is_found(kit):
    (finding,) = examined(kit, ["not registered with the server"]).findings
    assert finding.what == "bonn: not registered with the server."


def test_a_kit_says_whom_its_site_dials_and_whom_it_lets_dial(kits):
    document = json.loads((kits["bonn"] / "local/flaremesh__p_resources.json").read_text())
    arguments = document["components"][0]["args"]
    assert arguments.pop("kit") == {
        "digest": digest(kits["bonn"]),
        "files": False,
        "packages": [],
        "sha256": [],
    }
    assert arguments == {
        "link": {"host": "localhost", "ports": [8120, 8123]},
        "dials": [{"site": site, "host": "localhost"} for site in ("heidelberg", "aachen")],
        "admits": ["heidelberg", "aachen"],
        "gpus": 0,
        "share": [],
    }


@pytest.mark.parametrize("version", [0, 4])
def test_a_kernel_that_does_not_confine_runs_is_told(kit, monkeypatch, version):
    monkeypatch.setattr(landlock, "version", lambda: version)
    assert Report.from_json(examined(kit).to_json()).confined is bool(version)


def test_only_failed_edges_are_findings(kit):
    edges = [Edge("a", "", True), Edge("b", "", None, "busy"), Edge("c", "", False, "refused", "open it")]
    (finding,) = examined(kit, edges=edges).findings
    assert finding == Finding("bonn", "refused", "open it", "c")


def test_a_kit_that_is_damaged_on_disk_is_found(kit):
    (kit / "startup/client.crt").write_text("nothing")
    (finding,) = examined(kit).findings
    assert "damaged" in finding.what


def test_gpus_that_cannot_be_seen_are_found(kit):
    report = examined(kit, gpus=1000)
    (finding,) = report.findings
    assert "bonn asks for 1000 GPUs" in finding.what
    assert finding.remedy
