"""What several threads of the server add to what is kept of a job is all there."""

from concurrent.futures import ThreadPoolExecutor

from flaremesh.p2p.nvflare.storage import WorkspaceStorage

ENTRIES = 40
THREADS = 8


def test_what_threads_add_at_once_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = WorkspaceStorage("jobs")
    storage.create_object("/job", b"content", {})

    def add(thread):
        for entry in range(ENTRIES):
            storage.update_meta("/job", {f"{thread} {entry}": entry}, replace=False)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(add, range(THREADS)))
    assert len(storage.get_meta("/job")) == THREADS * ENTRIES
