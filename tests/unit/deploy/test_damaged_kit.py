"""A damaged kit of the admin is told as such, and not as a server that is away."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flaremesh.deploy.runs import session
from flaremesh.deploy.runs.session import ServerLost, connect
from flaremesh.deploy.targets.base import DeployError
from flaremesh.provision.kits import provision
from flaremesh.topology.load import load

RING = load(Path(__file__).parents[3] / "provision/ring3-consensus.yaml")
ADMIN = RING.admins[0].email


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mesh")
    provision(RING, folder)
    return folder / "kits" / ADMIN


DAMAGE = {
    "certificate gone": ("startup/client.crt", None),
    "root gone": ("startup/rootCA.pem", None),
    "no PEM": ("startup/client.crt", b"\xff\x00"),
    "key gone": ("startup/client.key", None),
    "another key": ("startup/client.key", b"-----BEGIN PRIVATE KEY-----\n"),
    "configuration gone": ("startup/fed_admin.json", None),
    "configuration empty": ("startup/fed_admin.json", b""),
    "configuration of other shape": ("startup/fed_admin.json", b"[]"),
    "configuration without its section": ("startup/fed_admin.json", b"{}"),
    "configuration binary": ("startup/fed_admin.json", bytes(range(256))),
}


@pytest.mark.parametrize(("file", "content"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_kit_is_named(tmp_path: Path, kit: Path, file: str, content: bytes | None) -> None:
    damaged = tmp_path / "kits" / ADMIN
    shutil.copytree(kit, damaged)
    if content is None:
        (damaged / file).unlink()
    else:
        (damaged / file).write_bytes(content)
    with pytest.raises(DeployError, match=r"kit") as raised, connect(RING, tmp_path):
        pass
    assert not isinstance(raised.value, ServerLost)
    assert str(damaged) in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_an_admins_key_is_not_copied_to_where_the_code_of_a_run_on_this_machine_may_read(
    tmp_path: Path, kit: Path
) -> None:
    copy = tmp_path / "scratch"
    session._session(ADMIN, kit, copy, ("127.0.0.1", 1))
    files = [path for path in copy.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert [path.readlink() for path in files] == [kit / "startup/client.key"]


def test_half_a_kit_is_named(tmp_path: Path) -> None:
    (tmp_path / "kits" / ADMIN).mkdir(parents=True)
    with pytest.raises(DeployError, match="there is no startup kit in"), connect(RING, tmp_path):
        pass


CALL = """
import socket, sys
from pathlib import Path
from flaremesh.deploy.runs import session
from flaremesh.topology.schema import Topology

session._CONNECT_SECONDS = 0.5
with socket.create_server(("127.0.0.1", 0)) as stranger:
    mesh, folder = Topology.model_validate_json(sys.argv[1]), Path(sys.argv[2])
    try:
        with session.connect(mesh, folder, stranger.getsockname()):
            pass
    except session.ServerLost as error:
        print(error)
"""


def test_another_one_who_listens_at_the_servers_port_is_told_and_nothing_else(kit: Path) -> None:
    # in a process of its own: what connections of other tests say late is not this one's
    arguments = [sys.executable, "-c", CALL, RING.model_dump_json(), str(kit.parents[1])]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=True)
    (sentence,) = ended.stdout.splitlines()
    assert "where somebody listens: another mesh" in sentence
    assert ended.stderr == ""


def test_what_an_admin_has_downloaded_is_not_copied_for_a_session(
    tmp_path: Path, kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_CONNECT_SECONDS", 0.5)
    shutil.copytree(kit, tmp_path / "kits" / ADMIN)
    large = tmp_path / "kits" / ADMIN / "transfer/large"
    large.symlink_to("/nowhere")  # a copy of it would fail
    server = ("127.0.0.1", 9)
    with pytest.raises(ServerLost, match=r"127\.0\.0\.1:9"), connect(RING, tmp_path, server):
        pass
