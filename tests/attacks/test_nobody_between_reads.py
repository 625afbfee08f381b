"""Sites that only dial out exchange what no machine but theirs can read, whichever way it takes."""

from collections.abc import Iterator

import pytest
from apart import Apart, Capture, apart
from attacked_mesh import END_SECONDS, SITES, wait_until
from marked import MARKER

from flaremesh.topology.schema import SERVER, Privacy, ProblemReference

PORT, MEETING_PORT = 8002, 8003
ITERATIONS = 40
VALUES, MARKERS = 256, 128
LEAST_BYTES = ITERATIONS * len(SITES) * (len(SITES) - 1) * len(MARKER) * MARKERS
"""Of iterates alone, which the sites send in a run."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    with apart(
        tmp_path_factory.mktemp("mesh"),
        (SERVER, "adam"),
        PORT,
        MEETING_PORT,
        graph={"kind": "ring"},
    ) as mesh:
        yield mesh


def test_a_site_has_a_way_to_the_server_and_to_nobody_else(mesh: Apart) -> None:
    for site in SITES:
        assert {other: mesh.reaches(site, other, PORT) for other in mesh.places if other != site} == {
            other: other == SERVER for other in mesh.places if other != site
        }


@pytest.mark.parametrize(("links", "carrier"), [("auto", "met"), ("relay", "relayed")])
def test_a_marker_in_every_iterate_is_neither_in_the_servers_traffic_nor_in_what_its_process_is_given(
    mesh: Apart, links: str, carrier: str
) -> None:
    frames = mesh.mesh.folder / f"frames-{carrier}"
    mesh.mesh.tell(SERVER, "server_attacks.keep_frames", file=str(frames))
    capture = Capture(mesh.places[SERVER])

    def in_traffic() -> bool:
        return MARKER in capture.seen

    def in_frames() -> bool:
        return MARKER in frames.read_bytes()

    problem = ProblemReference(path="marked.Marked", args={"dimension": VALUES, "markers": MARKERS})
    changes = {
        "algorithm": "gradient-tracking",
        "iterations": ITERATIONS,
        "problem": problem,
        "privacy": Privacy(masked_start=False),  # masks would hide the markers in what is sealed as well
    }
    listening: set[str] = set()
    with mesh.running(links=links, **changes) as run:
        while not run.done():
            listening.update(*(mesh.listening(site) for site in SITES))
        result = run.result()
    assert result.outcome == "finished", result.reason
    assert {site: dict(told.links) for site, told in result.sites.items()} == {
        site: dict.fromkeys(set(SITES) - {site}, carrier) for site in SITES
    }
    assert not listening
    assert len(capture.seen) > LEAST_BYTES
    assert not capture.lost
    assert carrier == "met" or frames.stat().st_size > LEAST_BYTES
    assert not in_traffic()
    assert not in_frames()
    # what is sent in the clear, in the same ways, is found
    mesh.send_in_the_clear("adam", MARKER)
    wait_until(in_traffic, END_SECONDS)
    post = {"target": "berta", "topic": "frames", "payloads": [MARKER]}
    mesh.mesh.tell("adam", "member_attacks.post", **post)
    wait_until(in_frames, END_SECONDS)
