"""The bench, as `make bench` runs it, on its smallest case."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_bench_times_both_packages_on_the_same_mesh(tmp_path):
    command = [
        sys.executable,
        "-m",
        "bench.links",
        "--quick",
        "--case",
        "exchange",
        "--output",
        str(tmp_path),
    ]
    bench = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert bench.returncode == 0, bench.stderr
    rows = {row["system"]: row for row in json.loads((tmp_path / "links.json").read_text())}
    assert rows.keys() == {"flaremesh", "nvflare.app_opt.p2p"}
    for row in rows.values():
        assert (row["case"], row["sites"], row["floats"], row["unit"]) == ("exchange", 2, 1000, "ms")
        assert 0 < row["median"] <= row["p95"]
        assert row["repeats"] == 1
    assert "ratio" in bench.stdout
