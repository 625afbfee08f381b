"""A real Prometheus for tests."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from running_mesh import wait_until

from flaremesh.provision.releases import METRIC_RELABELING
from ports import free_port
from programs import program

SCRAPE_SECONDS = 1
START_SECONDS = 60.0


class Prometheus:
    """Answers queries about what it has scraped."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"

    @property
    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> dict[str, float]:
        """The values of an instant query by site."""
        parameters = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=10) as reply:
            result = json.load(reply)["data"]["result"]
        values = {series["metric"].get("site", ""): float(series["value"][1]) for series in result}
        assert len(values) == len(result), f"{expression} has several series of a site"
        return values

    def scrape_again(self, sites: set[str]) -> None:
        """Wait until every site has been scraped after this call."""
        now = time.time()
        wait_until(
            lambda: {site for site, when in self.query("timestamp(up)").items() if when > now} >= sites,
            START_SECONDS,
        )


@contextmanager
def scraping(
    targets: Mapping[str, str], folder: Path, mesh: str = "mesh", rules: Path | None = None
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes ``targets``, host:port by site, and has reached all of them."""
    config = {
        "global": dict.fromkeys(
            ("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{SCRAPE_SECONDS}s"
        ),
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [
            {
                "job_name": "flaremesh",
                "metric_relabel_configs": yaml.safe_load(METRIC_RELABELING.read_text()),
                "static_configs": [
                    {"targets": [address], "labels": {"mesh": mesh, "site": site}}
                    for site, address in targets.items()
                ],
            }
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    prometheus = Prometheus(port)
    try:
        wait_until(lambda: prometheus.ready or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        prometheus.scrape_again(set(targets))
        yield prometheus
    finally:
        process.terminate()
        process.wait(timeout=30)
