"""A site lies to the server, to the admin and to another agent: nobody is misled, and nothing is marked."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import psutil
import pytest
from attacked_mesh import MODEL, AttackedMesh, attacked_mesh

from flaremesh.topology.schema import ProblemReference

ITERATIONS = 50
MEMORY = 64 << 20  # bytes
PROCESS = 500 << 20  # of a run's process, with torch


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedMesh]:
    with attacked_mesh(tmp_path_factory.mktemp("mesh"), ["carol"]) as mesh:
        yield mesh


@pytest.mark.parametrize("what", ["progress", "result", "reason"])
def test_a_lie_about_a_run_is_dropped_or_told_in_printable_words_with_the_sites_name(
    mesh: AttackedMesh, what: str
) -> None:
    problem = ProblemReference(path="liar.Liar", args={"what": what, **MODEL})
    result = mesh.run(mesh.run_of("adam", "carol", problem=problem, iterations=ITERATIONS))
    assert result.outcome == ("finished" if what == "progress" else "failed")
    assert "carol" in (result.reason or "carol")
    assert (result.reason or "").isprintable()
    for site in result.sites.values():
        assert site.iterations <= ITERATIONS
        assert all(map(str.isprintable, (*site.metrics, *site.links, *site.sent_bytes)))
    assert "\x1b" not in mesh.console("server")


@pytest.mark.parametrize("links", ["direct", "relay"])
def test_giants_of_a_neighbour_end_the_run_by_its_name_and_take_no_memory(
    mesh: AttackedMesh, links: str
) -> None:
    problem = ProblemReference(path="liar.Liar", args={"what": "giants", **MODEL})
    topology = mesh.run_of("adam", "carol", problem=problem, links=links, peer_timeout=5.0)
    grown: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(mesh.run, topology)
        while wait([running], timeout=0.05).not_done:
            with suppress(psutil.NoSuchProcess):
                grown += [job.memory_info().rss for job in mesh.process("adam").children()]
    assert running.result().outcome == "failed"
    assert "carol" in str(running.result().reason)
    assert max(grown) < PROCESS + MEMORY


def test_an_agent_waits_behind_the_relay_for_no_site_that_does_not_dial_it(mesh: AttackedMesh) -> None:
    """Of two neighbours it is the one with the lesser name: adam goes to carol."""
    told = mesh.tell("carol", "member_attacks.ask", target="adam", topic="probe", payload=b"relayed")
    answer = json.loads(told)
    assert "waits" not in answer
    assert answer["wrong"]
    assert "adam lets carol not come in this way" in answer["why"]


def test_an_agent_that_is_answered_with_a_number_for_bytes_reports_it_and_takes_no_memory(
    mesh: AttackedMesh,
) -> None:
    mesh.tell("carol", "member_attacks.answer_with", topic="probe", payload=10**11)
    memory = mesh.process("adam").memory_info().rss
    report = json.loads(mesh.get("adam", "/doctor?report"))
    assert mesh.process("adam").memory_info().rss < memory + MEMORY
    (edge,) = (edge for edge in report["edges"] if edge["peer"] == "carol")
    assert edge["ok"] is False
    assert "carol" in edge["reason"]
