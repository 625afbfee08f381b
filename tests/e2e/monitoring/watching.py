"""A Prometheus in a pod, asked through a port of this machine."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster import wait_until

from promql import Prometheus

NAMESPACE = "flaremesh-monitoring"

OPTED_OUT = "bonn"
"""The site whose admin lets no metrics leave it."""


class Watching(Prometheus):
    """A Prometheus with rules."""

    def __init__(self, url: str):
        super().__init__(url)
        self._rules = f"{url}/api/v1/rules"

    def rules(self) -> list[dict[str, Any]]:
        """All its rules, with their health."""
        with urllib.request.urlopen(self._rules, timeout=10) as reply:
            groups = json.load(reply)["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self, alert: str) -> list[dict[str, str]]:
        """The labels of the alerts of a name that fire now."""
        found = self.query(f'ALERTS{{alertname="{alert}", alertstate="firing"}}')
        return [dict(sample.labels) for sample in found]

    def scrapes(self, participants: set[str]) -> None:
        """Wait until it reaches all of them."""

        def reached() -> bool:
            return {s.labels["site"] for s in self.query('up{job="flaremesh"} == 1')} == participants

        wait_until(reached, 60, lambda: str(self.query("up")))


@contextmanager
def forwarded(pod: str) -> Iterator[Watching]:
    """The Prometheus of a pod."""
    command = ["kubectl", "--namespace", NAMESPACE, "port-forward", f"pod/{pod}", ":9090"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        try:
            assert forward.stdout
            line = forward.stdout.readline()
            port = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert port, line + forward.stdout.read()
            yield Watching(f"http://127.0.0.1:{port[1]}")
        finally:
            forward.terminate()
