"""The files that a confined process can use: each case is a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flaremesh.sandbox import landlock
from flaremesh.sandbox.files import HIDES_VARIABLE, WRITES_VARIABLE, around

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")

SCRIPT = """
import json, os, sys
from pathlib import Path
from flaremesh.sandbox.files import confine
workspace = Path(sys.argv[1])
confine(workspace, "run-1", os.environ, workspace / "stores/1")
able = {}
for word in sys.argv[2:]:
    action, _, path = word.partition(" ")
    try:
        if action == "read": Path(path).read_bytes()
        elif action == "list": os.listdir(path)
        elif action == "write": Path(path).write_text("x")
        elif action == "shorten": os.truncate(path, 0)
        elif action == "rename": os.rename(path, path + ".moved")
        elif action == "remove": os.remove(path)
        elif action == "point": os.symlink(sys.argv[1] + "/startup/client.key", path)
        elif action == "move": os.rename(os.environ["TMPDIR"] + "/pointer", path)
        elif action == "link": os.link(path, str(Path(sys.argv[1], "run-1/link")))
        elif action == "run": os.waitstatus_to_exitcode(os.system(path)) and sys.exit(1)
        able[word] = True
    except OSError:
        able[word] = False
print(json.dumps(able))
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    workspace = tmp_path / "work"
    for name in ("startup/client.key", "startup/client.crt", "local/resources.json", "policy.yaml"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(name)
    for name in ("run-1/app", "run-2/model", "metrics/page", "stores/1/checkpoint", "stores/2/checkpoint"):
        (workspace / name).parent.mkdir(parents=True)
        (workspace / name).write_text(name)
    return workspace


def able(workspace: Path, *actions: str, **environment: str) -> set[str]:
    """Those of the actions that the process of a job can do."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(workspace), *actions],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {action for action, could in json.loads(done.stdout).items() if could}


@needs_landlock
@pytest.mark.parametrize("action", ["read", "write", "shorten", "rename", "remove", "link"])
@pytest.mark.parametrize("file", ["startup/client.key", "policy.yaml", "run-2/model", "stores/2/checkpoint"])
def test_a_job_can_do_nothing_with_a_hidden_file(workspace, action, file):
    if action == "shorten" and landlock.version() < 3:
        pytest.skip("this kernel does not keep a process from shortening files")
    assert not able(workspace, f"{action} {workspace / file}")
    assert (workspace / file).read_text() == file


@needs_landlock
def test_a_job_reads_certificates_and_settings_and_changes_neither(workspace):
    files = [workspace / "startup/client.crt", workspace / "local/resources.json", Path("/etc/hosts")]
    assert able(workspace, *(f"read {file}" for file in files)) == {f"read {file}" for file in files}
    assert not able(workspace, *(f"write {file}" for file in files))


@needs_landlock
def test_a_job_owns_its_runs_folder_and_store_and_the_places_that_its_site_names(workspace, tmp_path):
    for name in ("cache", "tmp"):
        (tmp_path / name).mkdir()
    own = [workspace / "run-1", workspace / "stores/1"]
    folders = [*own, workspace / "metrics", tmp_path / "cache", tmp_path / "tmp"]
    actions = [f"{action} {folder}/new" for folder in folders for action in ("write", "read", "remove")]
    environment = {
        "FLAREMESH_METRICS_DIR": str(workspace / "metrics"),
        WRITES_VARIABLE: str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    assert able(workspace, *actions, **environment) == set(actions)


@needs_landlock
def test_a_job_reads_its_sites_data_even_in_the_workspace(workspace):
    (workspace / "data").mkdir()
    (workspace / "data/patients.csv").write_text("1")
    read = f"read {workspace}/data/patients.csv"
    assert not able(workspace, read)
    assert able(workspace, read, FLAREMESH_DATA_DIR=str(workspace / "data")) == {read}


@needs_landlock
def test_a_link_opens_no_way_to_what_is_hidden(workspace, tmp_path):
    (workspace / "run-1/key").symlink_to(workspace / "startup/client.key")
    (tmp_path / "kit").symlink_to(workspace / "startup")
    assert not able(workspace, f"read {workspace}/run-1/key", f"read {tmp_path}/kit/client.key")


@needs_landlock
def test_a_kit_that_kubernetes_mounts_is_read_without_its_key(workspace):
    """There files are links into a folder of the date, whose name changes with the content."""
    startup = workspace / "startup"
    (startup / "..date").mkdir()
    for file in ("client.key", "client.crt"):
        (startup / file).rename(startup / "..date" / file)
        (startup / file).symlink_to(Path("..data", file))
    (startup / "..data").symlink_to("..date")
    reads = [f"read {startup}/{file}" for file in ("client.key", "client.crt", "..data/client.key")]
    assert able(workspace, *reads) == {f"read {startup}/client.crt"}


@needs_landlock
def test_a_job_leaves_no_link_where_its_participant_would_follow_it(workspace, tmp_path):
    (tmp_path / "tmp").mkdir()
    folders = [workspace / "run-1", workspace / "stores/1", workspace / "metrics"]
    point = f"point {tmp_path}/tmp/pointer"
    actions = [point, *(f"{action} {folder}/key" for folder in folders for action in ("point", "move"))]
    environment = {"FLAREMESH_METRICS_DIR": str(workspace / "metrics"), "TMPDIR": str(tmp_path / "tmp")}
    assert able(workspace, *actions, **environment) == {point}


@needs_landlock
def test_a_site_can_hide_more(workspace, tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others/key").write_text("")
    (tmp_path / "beside").write_text("")
    actions = [f"read {tmp_path}/others/key", f"read {tmp_path}/beside"]
    assert able(workspace, *actions) == set(actions)
    assert able(workspace, *actions, **{HIDES_VARIABLE: str(tmp_path / "others")}) == {actions[1]}
    assert able(workspace, *actions, FLAREMESH_POLICY=str(tmp_path / "others/key")) == {actions[1]}


@needs_landlock
def test_what_a_job_starts_is_confined_as_well(workspace):
    done = able(workspace, f"run cat '{workspace}/startup/client.key' > /dev/null 2>&1 && exit 1 || exit 0")
    assert done, "cat could read the key"


@needs_landlock
def test_a_job_sees_neither_memory_nor_environment_of_its_site(workspace):
    parent = os.getpid()
    paths = [f"/proc/{parent}/{name}" for name in ("environ", "mem", "maps", "root/etc/hosts")]
    assert not able(workspace, *(f"read {path}" for path in paths))


def test_the_parts_around_a_hidden_folder_are_as_large_as_can_be(tmp_path):
    for name in ("a/b/hidden/key", "a/b/file", "a/c/d", "e/f"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a/b/hidden")
    parts = set(around(str(tmp_path), {str(tmp_path / "a/b/hidden")}))
    assert parts == {str(tmp_path / name) for name in ("a/b/file", "a/c", "e")}


@pytest.mark.parametrize("hidden", [set(), {"/elsewhere"}])
def test_a_folder_in_which_nothing_is_hidden_is_one_part(tmp_path, hidden):
    assert list(around(str(tmp_path), hidden)) == [str(tmp_path)]


def test_a_hidden_folder_has_no_parts(tmp_path):
    assert not list(around(str(tmp_path), {str(tmp_path)}))
