"""A member that is nobody's neighbour in a run sends frames to its sites, and moves nobody's model."""

import struct
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from attacked_mesh import MODEL, AttackedMesh, RunBeside, attacked_mesh, wait_until

from flaremesh.links.frame import Frame, Kind, pack, run_digest

Attack: TypeAlias = Callable[[AttackedMesh, RunBeside], None]
"""By carol on adam."""

GIANT = struct.pack("<d", 9e5) * MODEL["dimension"]
MEMORY = 64 << 20
"""Bytes by which a process may grow: its messages have 64, its logs and its metrics are its own."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedMesh]:
    with attacked_mesh(tmp_path_factory.mktemp("mesh"), ["carol"]) as mesh:
        yield mesh


def frames(beside: RunBeside, payload: bytes, total: int | None = None) -> list[bytes]:
    """Messages for the iterations that the run is about to do, with the numbers that are due."""
    run, due = run_digest(beside.run_id), range(beside.iteration, beside.iteration + 200)
    return [
        pack(Frame(Kind.DATA, number + 2, 0, number, 0, 0, total or len(payload), payload), run)
        for number in due
    ]


def post(mesh: AttackedMesh, beside: RunBeside, payloads: list[object], **sender: object) -> None:
    target = f"adam.{beside.run_id}"
    mesh.tell("carol", "member_attacks.post", target=target, topic="frames", payloads=payloads, **sender)


def under_the_own_name(mesh: AttackedMesh, beside: RunBeside) -> None:
    post(mesh, beside, frames(beside, GIANT))


def in_a_neighbours_name_with_an_own_login_that_the_server_has_forgotten(
    mesh: AttackedMesh, beside: RunBeside
) -> None:
    first = mesh.tell("carol", "member_attacks.log_in_again")
    post(mesh, beside, frames(beside, GIANT), origin=f"berta.{beside.run_id}", login=first)


def in_a_neighbours_name_with_its_stolen_login(mesh: AttackedMesh, beside: RunBeside) -> None:
    stolen = mesh.job_process("berta", beside.run_id).environ()
    login = "berta", stolen["NVFLARE_JOB_AUTH_TOKEN"], stolen["NVFLARE_JOB_TOKEN_SIGNATURE"]
    post(mesh, beside, frames(beside, GIANT), origin=f"berta.{beside.run_id}", login=login)


@pytest.mark.parametrize("links", ["relay", "direct"])
@pytest.mark.parametrize(
    "attack",
    [
        under_the_own_name,
        in_a_neighbours_name_with_an_own_login_that_the_server_has_forgotten,
        in_a_neighbours_name_with_its_stolen_login,
    ],
)
def test_a_forged_frame_is_refused_counted_and_changes_no_bit(
    mesh: AttackedMesh, attack: Attack, links: str
) -> None:
    with mesh.beside(links=links) as beside:
        job = mesh.job_process("adam", beside.run_id)
        before = sum(mesh.refused("adam", peer) for peer in ("berta", "carol", ""))
        memory = job.memory_info().rss
        attack(mesh, beside)
        wait_until(lambda: sum(mesh.refused("adam", peer) for peer in ("berta", "carol", "")) > before, 20)
        assert beside.going_on()
        assert job.memory_info().rss < memory + MEMORY
    assert beside.learnt_what_it_should()
