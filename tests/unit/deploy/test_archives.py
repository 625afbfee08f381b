"""Archives that go into containers, and those that come out of them, whoever sends them."""

import io
import shutil
import subprocess
import sys
import tarfile

import pytest

from flaremesh.deploy.targets import archives
from flaremesh.deploy.targets.base import DeployError, TooLong
from flaremesh.deploy.targets.kubernetes import commands
from traced import peak_bytes


def entries(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {entry.name: entry for entry in tar}


def test_files_arrive_at_their_paths_for_everybody_to_read():
    archive = archives.of_files({"/etc/grafana/a.yaml": b"a: 1\n", "/dashboards/b.json": b"{}"})
    assert {name: entry.mode for name, entry in entries(archive).items()} == {
        "etc/grafana/a.yaml": 0o444,
        "dashboards/b.json": 0o444,
    }
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.extractfile("dashboards/b.json").read() == b"{}"


def test_a_folder_is_archived_as_far_as_the_filter_lets_it(tmp_path):
    for name in ("client.key", "start.sh"):
        (tmp_path / name).write_text(name)

    def changed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.uid = 4711
        return None if entry.name.endswith(".sh") else entry

    archive = archives.of_folder(tmp_path, changed)
    assert {name: entry.uid for name, entry in entries(archive).items()} == {".": 4711, "./client.key": 4711}


def test_a_folder_comes_out_as_it_went_in(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.jsonl").write_text("{}\n")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(tmp_path / "run", arcname="flaremesh")
    archive.seek(0)
    archives.unpack(archive, tmp_path / "bonn")
    assert (tmp_path / "bonn" / "history.jsonl").read_text() == "{}\n"


def sent(*entries, compression=""):
    """An archive with these entries; each is a name, or an entry, or an entry and its content."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=f"w{compression}", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            entry, content = entry if isinstance(entry, tuple) else (entry, b"")
            entry = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            entry.size = entry.size or len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def of_kind(kind, name="flaremesh/x", **fields):
    entry = tarfile.TarInfo(name)
    entry.type = kind
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (sent(of_kind(tarfile.SYMTYPE, linkname="/etc/passwd")), "neither a file nor a folder"),
        (
            sent("flaremesh/a", of_kind(tarfile.LNKTYPE, linkname="flaremesh/a")),
            "neither a file nor a folder",
        ),
        (sent(of_kind(tarfile.CHRTYPE)), "neither a file nor a folder"),
        (sent(of_kind(tarfile.FIFOTYPE)), "neither a file nor a folder"),
        (sent(of_kind(tarfile.GNUTYPE_SPARSE)), "neither a file nor a folder"),
        (sent("flaremesh/a", "flaremesh/./a"), "a name twice"),
        (sent("flaremesh/\x1b[2J"), r"cannot be printed: flaremesh/\\x1b\[2J"),
        (sent("flaremesh/a", "../b"), "damaged"),
        (sent("flaremesh/a", "other/b"), "damaged"),
        (sent(("flaremesh/a", bytes(1 << 20)), compression=":gz"), "damaged"),
        (sent("flaremesh/" + "n" * (1 << 20)), "a header is too long"),
        (of_kind(tarfile.REGTYPE, size=1 << 40).tobuf() + bytes(2048), "damaged"),
        (sent(*(f"flaremesh/{n}" for n in range(10_001))), "more than 10000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_archive_that_is_no_copy_of_a_run_is_refused_and_leaves_nothing(tmp_path, archive, said):
    with pytest.raises(DeployError, match=said):
        archives.take([archive], tmp_path / "bonn")
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_never_ends_is_left_when_there_is_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "room", lambda folder: 1 << 20)
    taken = 0

    def chunks():
        nonlocal taken
        while True:
            taken += 1
            yield bytes(1 << 16)

    with pytest.raises(DeployError, match="more than 1048576 bytes"):
        archives.take(chunks(), tmp_path / "bonn")
    assert taken == 17
    assert list(tmp_path.iterdir()) == []


def test_an_archive_fills_at_most_a_part_of_the_disk(tmp_path):
    assert 0 < archives.room(tmp_path / "bonn") <= 64 << 30


def test_a_long_file_takes_no_memory(tmp_path):
    archive = sent(("flaremesh/model", bytes(64 << 20)))

    def take():
        shutil.rmtree(tmp_path / "bonn", ignore_errors=True)
        chunks = (archive[at : at + (1 << 20)] for at in range(0, len(archive), 1 << 20))
        archives.take(chunks, tmp_path / "bonn")

    assert peak_bytes(take) < 8 << 20
    assert (tmp_path / "bonn" / "model").stat().st_size == 64 << 20


# commands that print without end

FLOOD = (sys.executable, "-c", "import sys\nwhile True: sys.stdout.write('x' * 65536)")


def test_a_command_that_prints_without_end_is_stopped(tmp_path):
    with (
        (tmp_path / "copy").open("wb") as output,
        pytest.raises(TooLong, match="prints more than 1048576 bytes"),
    ):
        commands.call(*FLOOD, output=output, most=1 << 20)
    assert (tmp_path / "copy").stat().st_size <= 1 << 20


def test_what_a_command_prints_and_how_it_ends_is_told():
    ended = commands.call("sh", "-c", "echo out; echo err >&2; exit 3", output=subprocess.PIPE)
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"out\n", b"err\n", 3)
