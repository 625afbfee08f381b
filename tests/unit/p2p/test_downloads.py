"""What an admin's client does with whatever a server answers to a download."""

import os
import zipfile
from types import SimpleNamespace

import pytest
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.streaming.file_downloader import FileDownloadable
from nvflare.fuel.hci.client.api_status import APIStatus
from nvflare.fuel.hci.client.file_transfer import FileTransferModule
from nvflare.fuel.hci.file_transfer_defs import PULL_FOLDER_FQN

from flaremesh.p2p.nvflare.downloads import Unreadable, refuse_pulls, workspace_file

RESULT = "flaremesh/result.json"
MOST = 1 << 20


class Server:
    """Answers an admin's client with a file, as NVFlare's server would; ``offered`` are its names."""

    def __init__(self, file, offered=("workspace.zip",)):
        self.file_download_progress_timeout = 5.0
        self.session_abort_signal = Signal()
        self.cell = self
        self.pieces = 0
        self._file = file and FileDownloadable(str(file), chunk_size=1 << 16)
        self._offered = offered

    def server_execute(self, command):
        assert command == "download_job run-1"
        files = [[name, "reference"] for name in self._offered]
        return {
            "status": APIStatus.SUCCESS,
            "meta": {"files": files, "source_fqcn": "server", "tx_id": "/../x"},
        }

    def send_request(self, request, **_):
        return make_reply("ok", body=self.answer(request.payload.get("state")))

    def fire_and_forget(self, **_):
        """Nobody confirms."""

    register_request_cb = fire_and_forget

    def answer(self, state):
        self.pieces += 1
        status, data, state = self._file.produce(state, "admin")
        return {"status": status, "data": data, "state": state}


@pytest.fixture
def archive(tmp_path):
    def make(files, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(tmp_path / "archive", "w", compression) as zipped:
            for name, content in files.items():
                zipped.writestr(name, content)
        return tmp_path / "archive"

    return make


def fetched(server):
    return workspace_file(server, "run-1", RESULT, MOST)


def test_a_file_of_the_run_is_fetched_in_pieces(archive):
    content = os.urandom(200_000)
    server = Server(archive({RESULT: content, "log.txt": "x"}))
    assert fetched(server) == content
    assert server.pieces > 3


def test_a_run_without_that_file_has_none(archive):
    assert fetched(Server(archive({"log.txt": "x"}))) is None


@pytest.mark.parametrize("names", [(), ("/etc/passwd",), ("../workspace.zip", "workspace.zip/x"), (4, None)])
def test_a_name_only_chooses_among_what_is_offered(tmp_path, names):
    assert fetched(Server(None, names)) is None
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_is_too_long_is_read_no_further(archive):
    server = Server(archive({RESULT: os.urandom(3 * MOST)}))
    with pytest.raises(Unreadable, match="more than 1048576 bytes"):
        fetched(server)
    assert server.pieces == 17


def test_a_bomb_is_not_unpacked(archive):
    with pytest.raises(Unreadable, match=f"{RESULT} has more than 1048576 bytes"):
        fetched(Server(archive({RESULT: bytes(100 * MOST)}, zipfile.ZIP_DEFLATED)))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_file_that_is_damaged_within_its_archive_is_told(archive, compression):
    file = archive({RESULT: os.urandom(100_000)}, compression)
    content = bytearray(file.read_bytes())
    content[51:2000] = b"\xff" * 1949  # behind the header of the entry
    file.write_bytes(content)
    with pytest.raises(Unreadable, match="its archive is damaged"):
        fetched(Server(file))


def test_what_is_no_archive_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"PK" + bytes(1000))
    with pytest.raises(Unreadable, match="its archive is damaged"):
        fetched(Server(tmp_path / "file"))


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "ok", "data": 10**9, "state": {}},
        {"status": "ok", "data": [b"x"], "state": {}},
        {"status": "ok", "data": b"", "state": {}},
    ],
    ids=str,
)
def test_a_server_that_sends_no_bytes_or_never_ends_is_left(answer):
    server = Server(None)
    server.answer = lambda state: answer
    with pytest.raises(Unreadable):
        fetched(server)


def test_a_server_that_breaks_off_is_lost():
    server = Server(None)
    server.answer = lambda state: {"status": "error"}
    with pytest.raises(ConnectionError):
        fetched(server)


def test_a_server_has_no_command_that_writes_on_the_admins_machine(tmp_path):
    module = FileTransferModule(str(tmp_path), str(tmp_path))
    refuse_pulls(SimpleNamespace(cmd_modules=[module]))
    answer = module.cmd_handlers[PULL_FOLDER_FQN](["list_jobs", "/etc"], None)
    assert answer["status"] != APIStatus.SUCCESS
