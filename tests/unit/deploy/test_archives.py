"""Archives that go into containers."""

import io
import tarfile

from flaremesh.deploy.targets import archives


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
