"""Nobody finds half of a file that is replaced, whatever happens to the writer."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

from flaremesh import atomic

FULL = """
import resource, sys
from pathlib import Path
from flaremesh import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic.write(Path(sys.argv[1]), 5000 * "b")
except OSError:
    sys.exit(3)
"""


def test_a_reader_finds_the_old_content_or_the_new(tmp_path: Path) -> None:
    path, contents = tmp_path / "page", [1_000_000 * letter for letter in ("a", "b")]
    atomic.write(path, contents[0])
    done = threading.Event()

    def keep_writing() -> None:
        for turn in range(100):
            atomic.write(path, contents[turn % 2])
        done.set()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    while not done.is_set():
        assert path.read_text() in contents
    writer.join()


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page"
    atomic.write(path, "before")
    assert subprocess.run([sys.executable, "-c", FULL, path]).returncode == 3
    assert path.read_text() == "before"


def test_content_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch) -> None:
    names = []
    flush = os.fsync

    def note(opened: int) -> None:
        names.append((Path(f"/proc/self/fd/{opened}").resolve(), (tmp_path / "key").exists()))
        flush(opened)

    monkeypatch.setattr(os, "fsync", note)
    atomic.write(tmp_path / "key", b"secret", durable=True)
    assert names == [(tmp_path / "key.partial", False), (tmp_path, True)]


def test_a_file_system_that_cannot_flush_folders_takes_the_file(tmp_path: Path, monkeypatch) -> None:
    flush = os.fsync

    def refuse_folders(opened: int) -> None:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(opened)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    atomic.write(tmp_path / "key", "secret", durable=True)
    assert (tmp_path / "key").read_text() == "secret"
