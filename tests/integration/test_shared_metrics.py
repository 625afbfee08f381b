"""Sites of a mesh let the server show metrics of theirs, some of them or none."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packages.wiretap import HEARD
from prometheus import scraping
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from running_mesh import START_SECONDS, RunningMesh, wait_until

from flaremesh.p2p.agents.shared import OFF, PERIOD_SECONDS, SHARE_VARIABLE
from flaremesh.topology.schema import Code, Metrics
from programs import program

pytestmark = pytest.mark.timeout(300)

LISTED = ("iterations_total", "workspace_free_bytes", "iteration_duration_seconds")
OPEN, NARROWED, SILENT = "heidelberg", "bonn", "aachen"
"""Sites: one shares what its kit lists, one a part of it, and one nothing."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh whose kits all share the same, while its sites' admins say three things; it has done a run."""
    mesh = RunningMesh(
        tmp_path_factory.mktemp("mesh"), metrics=Metrics(share=LISTED), code=Code(packages=("wiretap",))
    )
    listening = {"format_version": 2, "components": [{"id": "tap", "path": "wiretap.Wiretap", "args": {}}]}
    (mesh.folder / "kits/server/local/wiretap__p_resources.json").write_text(json.dumps(listening))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path(__file__).parent / "packages"))
            patch.setenv(SHARE_VARIABLE, OFF)  # from the first moment
            mesh.target.up(START_SECONDS)
            restart(mesh, NARROWED, patch, f"{LISTED[0]}, {LISTED[1]}")
            restart(mesh, OPEN, patch, None)
            finish_a_run(mesh)
            yield mesh
    finally:
        mesh.target.down()
        mesh.release()


def restart(mesh: RunningMesh, site: str, patch: pytest.MonkeyPatch, admin: str | None) -> None:
    process = mesh.process(site)
    process.terminate()
    process.wait(timeout=30)
    if admin is None:
        patch.delenv(SHARE_VARIABLE)
    else:
        patch.setenv(SHARE_VARIABLE, admin)
    assert mesh.target.up(START_SECONDS) == [site]


def finish_a_run(mesh: RunningMesh) -> None:
    mesh.run("shared")
    iterations = mesh.topology.run.iterations
    for site in (OPEN, NARROWED):
        wait_until(
            lambda site=site: mesh.metric("server", "iterations_total", site=site) == iterations,
            2 * PERIOD_SECONDS,
        )


def heard(mesh: RunningMesh) -> list[list[str]]:
    """Sender, channel and topic of all messages that have reached the server."""
    return [line.split() for line in (mesh.workspace("server") / HEARD).read_text().splitlines()]


def shared(mesh: RunningMesh) -> list[Sample]:
    """What the server shows with the name of a site."""
    families = text_string_to_metric_families(mesh.get("server", "/metrics")[1])
    return [sample for family in families for sample in family.samples if "site" in sample.labels]


def names(mesh: RunningMesh, site: str) -> set[str]:
    return {
        sample.name.removeprefix("flaremesh_") for sample in shared(mesh) if sample.labels["site"] == site
    }


def test_the_server_shows_what_the_kit_of_a_site_lists(mesh):
    histogram = {f"{LISTED[2]}_{part}" for part in ("bucket", "count", "sum")}
    assert names(mesh, OPEN) == {*LISTED[:2], *histogram, "shared_metrics_timestamp_seconds"}


def test_the_server_shows_the_values_that_the_site_shows(mesh):
    for name in ("iterations_total", "iteration_duration_seconds_count", "iteration_duration_seconds_sum"):
        assert mesh.metric("server", name, site=OPEN) == mesh.metric(OPEN, name)


def test_a_sites_admin_narrows_what_its_kit_lists(mesh):
    assert names(mesh, NARROWED) == {*LISTED[:2], "shared_metrics_timestamp_seconds"}


def test_nothing_leaves_a_site_whose_admin_says_no_although_its_kit_says_yes(mesh):
    def messages(site):
        return [
            sender for sender, *kind in heard(mesh) if sender == site and kind == ["flaremesh", "metrics"]
        ]

    others = len(messages(OPEN))
    wait_until(lambda: len(messages(OPEN)) >= others + 2, 3 * PERIOD_SECONDS)  # a whole period has passed
    assert messages(NARROWED)
    assert messages(SILENT) == []
    assert [sender for sender, *_ in heard(mesh) if sender == SILENT]  # and the tap hears it
    assert names(mesh, SILENT) == set()
    assert mesh.metric(SILENT, "iterations_total") == mesh.topology.run.iterations


def test_the_page_of_the_server_is_sound(mesh):
    status, text = mesh.get("server", "/metrics")
    assert status == 200
    families = [family.name for family in text_string_to_metric_families(text)]
    assert len(families) == len(set(families))
    check = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


def test_a_site_says_how_full_its_disk_is(mesh):
    size, free = (mesh.metric(SILENT, f"workspace_{part}_bytes") for part in ("size", "free"))
    assert size == shutil.disk_usage(mesh.workspace(SILENT)).total
    assert 0 < free <= size


def test_a_prometheus_that_reaches_the_server_only_has_the_series_of_the_sites(mesh, tmp_path):
    (address,) = [
        urlsplit(each.metrics).netloc for each in mesh.target.participants() if each.name == "server"
    ]
    with scraping({"server": address}, tmp_path) as prometheus:
        iterations = dict.fromkeys((OPEN, NARROWED), mesh.topology.run.iterations)
        assert prometheus.query("flaremesh_iterations_total{mesh='mesh'}") == iterations
        assert set(prometheus.query("flaremesh_workspace_free_bytes")) == {"server", OPEN, NARROWED}


def test_sites_share_again_with_a_server_that_was_away(mesh):
    server = mesh.process("server")
    server.terminate()
    server.wait(timeout=40)
    assert mesh.target.up(START_SECONDS) == ["server"]
    for site in (OPEN, NARROWED):
        wait_until(lambda site=site: mesh.metric("server", "iterations_total", site=site), 60)
    assert names(mesh, SILENT) == set()
