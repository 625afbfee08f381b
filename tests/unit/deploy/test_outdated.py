"""Which participants run with an old kit, or with one that differs from the topology file."""

import json
from pathlib import Path

import pytest
import yaml

from flaremesh.deploy.outdated import (
    check_code,
    check_server,
    kits_in_use,
    older_than_kits,
    say_older,
    unlike_file,
)
from flaremesh.deploy.runs.follow import reason_of
from flaremesh.deploy.targets.base import DeployError, Participant
from flaremesh.deploy.watch.diagnosis import OldKits, judge
from flaremesh.p2p.agents.kit import Kit
from flaremesh.p2p.nvflare.jobs import Job
from flaremesh.p2p.nvflare.settings import AGENT_RESOURCES
from flaremesh.provision.kits import provision
from flaremesh.topology.load import load

RING = Path(__file__).parents[3] / "provision/ring3-consensus.yaml"
NAMES = ["server", "heidelberg", "bonn", "aachen"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes the ring of three with other fields, and loads it."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "problem.py").touch()

    def write(bonn=None, **fields):
        document = yaml.safe_load(RING.read_text()) | fields
        if bonn is not None:
            (site,) = (site for site in document["sites"] if site["name"] == "bonn")
            site |= bonn
        file = folder / "ring.yaml"
        file.write_text(yaml.safe_dump(document))
        return load(file)

    return write


def in_use(mesh):
    """What the agents would tell if they ran with the kits that are there now."""
    found = {}
    for name in NAMES:
        document = json.loads((mesh / "kits" / name / "local" / AGENT_RESOURCES).read_text())
        arguments = document["components"][0]["args"]
        dials = {peer["site"]: peer["host"] for peer in arguments.get("dials", [])}
        found[name] = Kit(**arguments["kit"], link=arguments.get("link"), dials=dials)
    return found


@pytest.fixture(scope="module")
def mesh(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("mesh")
    provision(written(), folder)
    return folder


MOVED = {"link": {"host": "bonn.invalid", "ports": "22124-22127"}}
FILE = {"run": {"algorithm": "dgd", "iterations": 1, "problem": {"file": "problem.py", "name": "P"}}}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        ({"bonn": MOVED}, ["heidelberg", "bonn", "aachen"]),
        ({"code": {"files": True}}, NAMES),
        ({"code": {"packages": ["ours"]}}, NAMES),
        ({"run": FILE["run"] | {"problem": {"path": "flaremesh.problems.digits.Digits"}}}, []),
    ],
)
def test_who_runs_with_an_older_kit_than_the_folder_has_is_named(tmp_path, written, changes, names):
    provision(written(), tmp_path)
    before = in_use(tmp_path)
    provision(written(**changes), tmp_path)
    assert older_than_kits(before, tmp_path) == names
    assert older_than_kits(in_use(tmp_path), tmp_path) == []


def test_the_sentence_names_who_where_and_what_to_do(tmp_path):
    said = say_older(["bonn", "aachen"], tmp_path)
    for part in ("bonn, aachen", str(tmp_path / "kits"), "newer", "`flaremesh down`", "`flaremesh up`"):
        assert part in said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"bonn": MOVED}, dict.fromkeys(NAMES[1:], "addresses")),
        ({"bonn": {"link": {"host": "localhost", "ports": "9"}}}, {"bonn": "addresses"}),
        ({"bonn": {"link": None}}, dict.fromkeys(["heidelberg", "aachen"], "neighbours")),
        ({"code": {"files": True}}, dict.fromkeys(NAMES, "code")),
    ],
)
def test_what_a_kit_has_otherwise_than_the_file_is_found(mesh, written, changes, expected):
    assert unlike_file(written(**changes), in_use(mesh)) == expected


def test_a_run_that_brings_a_file_needs_kits_that_accept_it(mesh, written):
    with pytest.raises(
        DeployError, match=r"server, heidelberg, bonn, aachen: .*accepts no code.*problem\.py"
    ):
        check_code(written(code={"files": True}, **FILE), in_use(mesh))
    check_code(written(), in_use(mesh))


def test_kits_that_lead_to_another_server_are_told(mesh, written):
    with pytest.raises(DeployError, match=r"localhost:\d+, and the topology file has it at localhost:1234"):
        check_server(written(server={"host": "localhost", "port": 1234, "org": "consortium"}), mesh)
    check_server(written(), mesh)


class Agents:
    """Those of a mesh, by what they answer."""

    def __init__(self, answers):
        self.answers = answers

    def ask(self, name, path):
        assert path == "/kit"
        return self.answers.get(name)


@pytest.mark.parametrize(
    "answer", [None, b"", b"[]", b"{}", b'{"digest": 1, "files": 0, "packages": "x"}', b"\xff"]
)
def test_an_agent_that_does_not_tell_of_its_kit_is_not_judged(answer):
    kit = Kit(digest="d", files=True, packages=["ours"], dials={"bonn": "localhost"})
    target = Agents({"heidelberg": kit.model_dump_json().encode(), "bonn": answer})
    participants = [Participant(name, name != "aachen", True, "", None) for name in NAMES[1:]]
    assert kits_in_use(target, participants) == {"heidelberg": kit}


def test_the_doctor_has_one_finding_for_each_who_runs_with_another_kit(mesh, written):
    topology = written()
    reports = dict.fromkeys(NAMES)
    participants = [Participant(name, False, False, "", None, elsewhere=True) for name in NAMES]
    kits = OldKits(["server", "bonn"], {"bonn": "addresses"})
    found = judge(topology, participants, reports, kits).findings
    assert [(finding.participant, "addresses" in finding.what) for finding in found] == [
        ("server", False),
        ("bonn", True),
    ]


def test_each_reason_for_which_sites_refuse_a_job_is_told_once_with_its_sites():
    details = (
        "server: OK",
        "bonn: NVFLARE_ERROR: hours: not at night",
        "ulm: NVFLARE_ERROR: the kit here accepts no code of a job: bring none",
        "worms: NVFLARE_ERROR: hours: not at night",
        "num_ok_sites 0 < required_min_sites 3",
    )
    assert reason_of(Job("mine", "FINISHED:FAILED_TO_RUN", details, None)) == (
        "bonn, worms: hours: not at night. ulm: the kit here accepts no code of a job: bring none."
    )


def test_whatever_else_keeps_a_job_from_running_is_told_of_each_site():
    details = ("server: OK", "bonn: no room", "num_ok_sites 0 < required_min_sites 1")
    reason = reason_of(Job("mine", "FINISHED:FAILED_TO_RUN", details, None))
    assert reason.endswith("FINISHED:FAILED_TO_RUN: bonn: no room; num_ok_sites 0 < required_min_sites 1")
