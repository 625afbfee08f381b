"""The bench of wide-area networks, as `make bench-wan` runs it, on its smallest case."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from networks import own_networks

ROOT = Path(__file__).parents[2]
BENCH_SECONDS = (
    180  # a quarter of a minute where nothing else runs: three groups of processes, one after the other
)

pytestmark = pytest.mark.timeout(BENCH_SECONDS + 10)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    own_networks()
    folder = tmp_path_factory.mktemp("wan")
    command = [sys.executable, "-m", "bench.wan", "--quick", "--output", str(folder)]
    bench = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BENCH_SECONDS)
    assert bench.returncode == 0, bench.stderr
    return folder


def test_every_system_and_every_wire_is_timed_on_the_network(output):
    found = json.loads((output / "wan.json").read_text())
    (milliseconds,) = [row for row in found["rows"] if (row["unit"], row["floats"]) == ("ms", 100_000)]
    wires = {f"flaremesh, {wire}" for wire in ("float32", "bfloat16", "float16", "int8", "top-k")}
    assert milliseconds["systems"].keys() == {"flaremesh", *wires, "torch gloo", "bare TLS", "a full line"}
    delay = 1e3 * found["trials"][0]["asked"]["one_way"]
    assert all(figure["median"] > delay for figure in milliseconds["systems"].values())


def test_no_system_is_faster_than_the_line(output):
    found = json.loads((output / "wan.json").read_text())
    for row in found["rows"]:
        if row["unit"] == "% of the line":
            assert all(0 < figure["median"] < 97 for figure in row["systems"].values())


def test_the_table_shows_the_networks_the_rows_and_where_the_time_goes(output):
    networks, rows, parts = (output / "wan.md").read_text().split("\n\n")
    assert "| 400 Mbit/s, 5 ms | 10." in networks
    assert "met: <= round trip + 0.5 ms" in rows or "MISSED: <= round trip + 0.5 ms" in rows
    assert parts.count("| flaremesh") == 6


def test_what_the_measured_edges_promise_is_about_what_iterations_take(output):
    """Not the 20 % that the bench shows on a machine of its own: here other tests run beside it."""
    found = json.loads((output / "wan.json").read_text())
    own = [each for each in found["results"] if each["system"].startswith("flaremesh")]
    assert len(own) == 7
    assert all(each["predicted"] / 3 < each["seconds"] < 3 * each["predicted"] for each in own)
