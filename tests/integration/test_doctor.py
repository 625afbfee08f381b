"""The doctor on a mesh of real processes."""

import json
import urllib.error
import urllib.request

import pytest
from command_mesh import SITES
from running_mesh import wait_until

from flaremesh.p2p.agents.agent import AGENT_FILE
from flaremesh.provision import measured

EDGES = {(source, target) for source in SITES for target in SITES if source != target}


def diagnosis(mesh, file=None):
    """The exit code and the document."""
    ended = mesh.call("doctor", "--json", file=file)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def state(document):
    return {(link["source"], link["target"]): link["ok"] for link in document["links"]}


def asked(mesh, name, path):
    url = json.loads((mesh.folder / "local" / name / AGENT_FILE).read_text())["url"]
    try:
        with urllib.request.urlopen(url + path, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_nothing_is_wrong_with_a_healthy_mesh(mesh):
    ended = mesh.call("doctor")
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.endswith("Nothing is wrong.\n")
    code, document = diagnosis(mesh)
    assert (code, document["findings"]) == (0, [])
    assert state(document) == dict.fromkeys(EDGES, True)
    assert {link["kind"] for link in document["links"]} == {"direct"}


def test_every_edge_of_a_healthy_mesh_is_measured_and_a_plan_tells_how_long_a_run_takes(mesh):
    ended = mesh.call("doctor", "--measure")
    assert ended.returncode == 0, ended.stderr
    file = mesh.folder / measured.FILE
    assert "round trip, ms" in ended.stdout
    assert f"Wrote {file}" in ended.stderr
    found = measured.read(file)
    assert {(edge.source, edge.target) for edge in found.edges} == EDGES
    assert all(edge.round_trip < 1 and edge.busy_rate > 1e5 for edge in found.edges)
    assert found.costs.keys() == set(SITES)

    planned = mesh.call("plan", "--build-problem", "--measured", str(file), "--json")
    assert planned.returncode == 0, planned.stderr
    times = json.loads(planned.stdout)["times"]
    assert times[0]["wire"] == "exact"
    assert all(0 < each["seconds"] < 1 for each in times)


def test_edges_that_only_the_relay_carries_are_measured_there_and_a_plan_uses_the_figures(mesh):
    file = mesh.topology("consensus", links="relay")
    ended = mesh.call("doctor", "--measure", file=file)
    assert ended.returncode == 0, ended.stderr
    found = measured.read(mesh.folder / measured.FILE)
    assert {(edge.source, edge.target): edge.link for edge in found.edges} == dict.fromkeys(EDGES, "relayed")
    assert all(edge.round_trip < 1 and edge.busy_rate > 1e5 for edge in found.edges)
    planned = mesh.call(
        "plan", "--build-problem", "--measured", str(mesh.folder / measured.FILE), "--json", file=file
    )
    assert planned.returncode == 0, planned.stderr
    slowest = max(edge.round_trip for edge in found.edges) / 2
    assert slowest <= json.loads(planned.stdout)["times"][0]["seconds"] < 1


def test_while_a_run_goes_on_nothing_is_measured_and_that_is_said(mesh):
    with mesh.endless():
        ended = mesh.call("doctor", "--measure", "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["edges"] == []
    assert "a run goes on at" in ended.stderr


def test_a_run_in_progress_is_no_trouble_and_is_not_troubled(mesh):
    with mesh.endless():
        code, document = diagnosis(mesh)
    assert (code, document["findings"]) == (0, [])
    assert state(document) == dict.fromkeys(EDGES, True)


def test_kits_of_other_neighbours_than_in_the_file_are_named(mesh):
    code, document = diagnosis(mesh, mesh.topology("consensus", addresses={"bonn": None}))
    assert code == 1
    assert {finding["participant"] for finding in document["findings"]} == {"heidelberg", "aachen"}
    assert all("other neighbours" in finding["what"] for finding in document["findings"])


@pytest.fixture
def ailing(make_mesh):
    """The address of aachen leads nowhere, and bonn has none: it dials the others."""
    mesh = make_mesh("ailing")
    nowhere = {"host": "nowhere.invalid", "ports": mesh.links["aachen"]["ports"]}
    mesh.file = mesh.topology("consensus", addresses={"aachen": nowhere, "bonn": None})
    up = mesh.call("up")
    assert up.returncode == 0, up.stderr
    return mesh


def test_an_address_that_leads_nowhere_and_a_stopped_site_are_found(ailing):
    code, document = diagnosis(ailing)
    assert code == 1
    assert {(f["participant"], f["peer"]) for f in document["findings"]} == {
        ("heidelberg", "aachen"),
        ("bonn", "aachen"),
    }
    assert all("nowhere.invalid" in finding["what"] for finding in document["findings"])
    # aachen reaches heidelberg, and has nowhere to dial bonn: bonn alone can make their connection
    assert state(document) == {edge: edge[1] != "aachen" and edge != ("aachen", "bonn") for edge in EDGES}
    assert {(link["source"], link["target"]): link["kind"] for link in document["links"]} == {
        edge: "dialled back" if edge[1] == "bonn" else "direct" for edge in EDGES
    }

    status, report = asked(ailing, "bonn", "/doctor")
    assert (status, [finding["peer"] for finding in report["findings"]]) == (503, ["aachen"])
    status, report = asked(ailing, "aachen", "/doctor")
    assert (status, report["findings"]) == (200, [])

    ailing.process("aachen").terminate()
    ailing.process("aachen").wait(timeout=20)
    ended = ailing.call("doctor")
    assert ended.returncode == 1
    assert ended.stdout.endswith("aachen does not run. Start it: `flaremesh up`.\n")
    assert "nowhere.invalid" not in ended.stdout.splitlines()[-1]


def test_an_edge_whose_ports_are_all_in_use_by_runs_is_not_tried_and_no_trouble(make_mesh):
    mesh = make_mesh("narrow")
    (port, _) = mesh.link_ports
    one = {"host": "localhost", "ports": str(port)}
    mesh.file = mesh.topology("consensus", addresses={SITES[0]: one})
    up = mesh.call("up")
    assert up.returncode == 0, up.stderr
    assert state(diagnosis(mesh)[1]) == dict.fromkeys(EDGES, True)
    with mesh.endless(addresses={SITES[0]: one}):
        code, document = diagnosis(mesh)
    assert (code, document["findings"]) == (0, [])
    assert state(document) == {edge: None if edge[1] == SITES[0] else True for edge in EDGES}


def test_a_server_that_is_away_is_named_with_everybody_who_misses_it(make_mesh):
    mesh = make_mesh("alone")
    assert mesh.call("up").returncode == 0
    mesh.process("server").kill()
    mesh.process("server").wait(timeout=20)
    wait_until(lambda: asked(mesh, "bonn", "/readyz")[0] == 503, 20)
    ended = mesh.call("doctor")
    assert ended.returncode == 1
    assert "server does not run." in ended.stdout
    assert "bonn: no connection to the server." in ended.stdout


def test_whose_kit_became_newer_than_the_process_is_said_by_up_run_and_doctor(mesh):
    """The last test of this mesh, whose kits change."""
    moved = {"host": "127.0.0.1", "ports": mesh.links["bonn"]["ports"]}
    file = mesh.topology("consensus", addresses={"bonn": moved})
    up = mesh.call("up", file=file)
    assert up.returncode == 1
    assert f"heidelberg, bonn, aachen: the kit in {mesh.folder / 'kits'} is newer" in up.stderr
    run = mesh.call("run", file=file)
    assert run.returncode == 1
    assert "heidelberg, bonn, aachen: the kit in" in run.stderr
    assert "the server gives another place where to dial bonn" in run.stderr
    code, document = diagnosis(mesh, file)
    assert (code, {finding["participant"] for finding in document["findings"]}) == (1, set(SITES))
    assert all("other addresses" in finding["what"] for finding in document["findings"])
