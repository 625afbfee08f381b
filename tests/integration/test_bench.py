"""The bench, as `make bench` runs it, on its smallest cases."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCH_SECONDS = 300  # two meshes, and a dozen groups of processes, one after the other

pytestmark = [pytest.mark.timeout(BENCH_SECONDS + 10), pytest.mark.full]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The folder that a run of the bench wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    cases = [argument for case in ("vectors", "growth") for argument in ("--case", case)]
    command = [sys.executable, "-m", "bench.links", "--quick", *cases, "--output", str(folder)]
    bench = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BENCH_SECONDS)
    assert bench.returncode == 0, bench.stderr
    return folder, bench.stdout


@pytest.fixture(scope="module")
def rows(output):
    return json.loads((output[0] / "links.json").read_text())


def row(rows, case, **key):
    (found,) = [row for row in rows if row["case"] == case and key.items() <= row.items()]
    return found


def test_every_system_is_timed_in_the_same_run(rows):
    vectors = row(rows, "vectors", sites=2, floats=1_000_000, unit="ms")
    assert vectors["systems"].keys() == {
        "flaremesh",
        "flaremesh, bfloat16",
        "flaremesh, met",
        "flaremesh, relayed",
        "nvflare.app_opt.p2p",
        "torch gloo",
        "bare TLS",
    }
    for figure in vectors["systems"].values():
        assert 0 < figure["median"] <= figure["p95"]
        assert (figure["repeats"], figure["failed"]) == (1, 0)


def test_cpu_and_memory_of_the_same_exchange_stand_beside_it(rows):
    for case in ("CPU per GB", "peak memory"):
        systems = row(rows, case, floats=1_000_000)["systems"]
        assert len(systems) == 7
        assert all(figure["median"] > 0 for figure in systems.values())


def test_what_the_meeting_point_needs_is_told(rows):
    for case in ("meeting point, CPU per GB", "meeting point, memory"):
        assert row(rows, case, floats=1_000_000)["systems"]["flaremesh, met"]["median"] > 0


def test_what_passes_through_the_server_is_little_beside_what_sites_exchange(rows):
    share = row(rows, "through the server", floats=1_000_000)
    assert 0 < share["systems"]["flaremesh"]["median"] < 1
    assert share["targets"] == [
        {"text": "< 1 %", "value": share["systems"]["flaremesh"]["median"], "met": True}
    ]


def test_a_ring_is_timed_at_several_sizes(rows):
    for sites in (2, 4):
        systems = row(rows, "ring, per edge", sites=sites, floats=1)["systems"]
        assert systems.keys() == {"flaremesh", "torch gloo", "bare TLS"}
        assert all(figure["median"] > 0 for figure in systems.values())


def test_the_table_says_which_targets_are_met(rows, output):
    folder, printed = output
    targets = [target for row in rows for target in row["targets"]]
    assert {target["text"] for target in targets} >= {">= 0.85x bare TLS", "bfloat16 >= 1.6x float32"}
    markdown = (folder / "links.md").read_text()
    assert markdown.count("met:") == printed.count("met:") == sum(target["met"] for target in targets)
    assert markdown.count("MISSED:") == sum(not target["met"] for target in targets)
    assert (folder / "links.png").read_bytes().startswith(b"\x89PNG")
