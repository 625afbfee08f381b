"""A member that is nobody's neighbour in a run, or the server, forges frames, and moves nobody's model."""

import struct
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from attacked_mesh import MODEL, AttackedMesh, RunBeside, attacked_mesh, wait_until

from flaremesh.links.carriers.stream import Piece, PieceKind
from flaremesh.links.carriers.stream import pack as pack_piece
from flaremesh.links.frame import Frame, Greeting, Kind, Word, pack, pack_greeting, run_digest

Attack: TypeAlias = Callable[[AttackedMesh, RunBeside], None]
"""By carol, or the server, on adam."""

GIANT = struct.pack("<d", 9e5) * MODEL["dimension"]
MEMORY = 64 << 20
"""Bytes by which a process may grow: its messages have 64, its logs and its metrics are its own."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedMesh]:
    with attacked_mesh(tmp_path_factory.mktemp("mesh"), ["carol", "server"]) as mesh:
        yield mesh


def streams(beside: RunBeside, payload: bytes) -> list[bytes]:
    """Streams that nobody has sealed, each with a message for an iteration that the run is about to do."""
    hello = pack_greeting(Greeting(Word.HELLO), run_digest(beside.run_id))
    pieces = []
    for number in range(beside.iteration, beside.iteration + 200):
        stream = number.to_bytes(8, "little")
        message = pack(Frame(Kind.DATA, number + 2, 0, 0, number, 0, len(payload))) + payload
        pieces.append(pack_piece(Piece(PieceKind.BEGIN, stream, 0, 0, b"")))
        pieces.append(pack_piece(Piece(PieceKind.PIECE, stream, 1, 0, hello + message)))
    return pieces


def post(
    mesh: AttackedMesh, beside: RunBeside, payloads: list[object], by: str = "carol", **sender: object
) -> None:
    sent = {"target": f"adam.{beside.run_id}", "topic": "frames", "payloads": payloads}
    mesh.tell(by, "member_attacks.post", **sent, **sender)


def under_the_own_name(mesh: AttackedMesh, beside: RunBeside) -> None:
    post(mesh, beside, streams(beside, GIANT))


def in_a_neighbours_name_with_its_stolen_login(mesh: AttackedMesh, beside: RunBeside) -> None:
    stolen = mesh.job_process("berta", beside.run_id).environ()
    login = "berta", stolen["NVFLARE_JOB_AUTH_TOKEN"], stolen["NVFLARE_JOB_TOKEN_SIGNATURE"]
    post(mesh, beside, streams(beside, GIANT), origin=f"berta.{beside.run_id}", login=login)


def in_a_neighbours_name_with_an_own_login_that_the_server_has_forgotten(
    mesh: AttackedMesh, beside: RunBeside
) -> None:
    first = mesh.tell("carol", "member_attacks.log_in_again")
    post(mesh, beside, streams(beside, GIANT), origin=f"berta.{beside.run_id}", login=first)


def by_the_server_in_a_neighbours_name(mesh: AttackedMesh, beside: RunBeside) -> None:
    post(mesh, beside, streams(beside, GIANT), by="server", origin=f"berta.{beside.run_id}")


def refused(mesh: AttackedMesh, beside: RunBeside) -> float:
    """How much was refused: by adam, who counts it, or by the server before, which names it in its log."""
    counted = sum(mesh.refused("adam", peer) for peer in ("berta", "carol", ""))
    return counted + mesh.console("server").count(f"received from berta.{beside.run_id}")


@pytest.mark.parametrize("links", ["relay", pytest.param("direct", marks=pytest.mark.full)])
def test_forged_frames_are_refused_counted_and_change_no_bit_whatever_login_they_show(
    mesh: AttackedMesh, links: str
) -> None:
    attacks: list[Attack] = [
        under_the_own_name,
        in_a_neighbours_name_with_its_stolen_login,
        in_a_neighbours_name_with_an_own_login_that_the_server_has_forgotten,
        by_the_server_in_a_neighbours_name,
    ]
    with mesh.beside(links=links) as beside:
        job = mesh.job_process("adam", beside.run_id)
        memory = job.memory_info().rss
        for attack in attacks:
            before = refused(mesh, beside)
            attack(mesh, beside)
            wait_until(lambda before=before: refused(mesh, beside) > before, 20)
        assert beside.going_on()
        assert job.memory_info().rss < memory + MEMORY
    assert beside.learnt_what_it_should()


def test_a_member_gives_no_orders_to_other_processes(mesh: AttackedMesh) -> None:
    with mesh.beside() as beside:
        for target in ("server", "adam", f"adam.{beside.run_id}", f"server.{beside.run_id}"):
            for channel, topic in (("_net_manager", "stop_cell"), ("client_command", "abort")):
                order = {"target": target, "topic": topic, "channel": channel, "payloads": [None]}
                mesh.tell("carol", "member_attacks.post", **order)
        wait_until(lambda: "a command of 'carol' is refused" in mesh.console("adam"), 20)
        reached = beside.iteration
        wait_until(lambda: beside.iteration > reached + 50, 20)
    assert beside.learnt_what_it_should()
