"""A run that loses a pod goes on by itself, and ends with the bits of the run that nobody disturbed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from cluster import kubectl, pod
from installed_mesh import Mesh

from undisturbed import left_behind

RUN = {"checkpoint": {"every": 50}, "iterations": 2000}
FAR_ENOUGH = 50  # iterations, so that there is a checkpoint


@pytest.fixture(scope="module")
def file(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A topology file of the mesh whose run waits for who is lost."""
    document = yaml.safe_load(mesh.file.read_text())
    document["run"] |= RUN
    # masks are others in each run, and so are the last bits of what comes out
    document["run"]["privacy"] = {"masked_start": False}
    path = tmp_path_factory.mktemp("losses") / "mesh.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def undisturbed(mesh: Mesh, file: Path) -> dict[str, Any]:
    return what_is_left(mesh, mesh.run(file=file))


def what_is_left(mesh: Mesh, result: dict[str, Any]) -> dict[str, Any]:
    folder = mesh.folder / "runs" / result["run_id"]
    return left_behind(folder, [site.name for site in mesh.topology.sites])


def await_iteration(progress: IO[str], iteration: int) -> None:
    """Read what the command prints until the run is so far."""
    for line in progress:
        reached = re.search(r": running, iteration (\d+)", line)
        if reached and int(reached[1]) >= iteration:
            return
    pytest.fail("the run ended before it was disturbed")


def delete(mesh: Mesh, name: str) -> None:
    """Delete the pod of a participant by force."""
    kubectl(mesh.namespaces[name], "delete", "pod", f"{name}-0", "--grace-period=0", "--force")


def drain(mesh: Mesh, name: str) -> None:
    """Drain the node of a participant, which is everybody's in a small cluster, and let pods back on it."""
    node = pod(mesh.namespaces[name], f"{name}-0")["spec"]["nodeName"]
    try:
        kubectl("default", "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s")
    finally:
        kubectl("default", "uncordon", node)


@pytest.mark.parametrize(("lose", "name"), [(delete, "bonn"), (delete, "server"), (drain, "server")])
def test_what_kubernetes_takes_away_changes_no_bit_of_the_result(
    mesh: Mesh, file: Path, undisturbed: dict[str, Any], lose: Callable[[Mesh, str], None], name: str
):
    with mesh.start("run", "--json", file=file) as run:
        assert run.stderr
        await_iteration(run.stderr, FAR_ENOUGH)
        lose(mesh, name)
        output, errors = run.communicate()
    assert run.returncode == 0, errors
    assert what_is_left(mesh, json.loads(output)) == undisturbed
