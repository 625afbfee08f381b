"""Each alert fires in a scenario made for it, and clears; the rules' time is compressed: see compressed.py.

The scenarios play once for all tests of this file, side by side where they do not disturb each other.
"""

import json
import logging
import signal
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from cluster import call, kubectl, wait_until
from installed_mesh import Mesh
from runs import (
    SPENDING,
    UNEVEN,
    dial_as_a_stranger,
    knock_in_another_version,
    meeting_point_ousted,
    running,
    running_with_other_weights,
)
from watching import Watching

from flaremesh.deploy.targets.base import at_once

FIRES, CLEARS = 180, 120  # seconds

_log = logging.getLogger(__name__)

# The ring's matrix has the eigenvalue -1/3: just beyond a step size of 2/3 the sites drift apart slowly.
DIVERGING = {"algorithm": "dgd", "stepsize": 2 / 3 + 0.002, "problem": UNEVEN, "checkpoint": {"every": 50}}
EXPLODING = DIVERGING | {"stepsize": 50.0, "iterations": 2000, "stop_on_non_finite": False}
CONTRACTING = {
    "algorithm": "consensus",
    "stepsize": None,
    "problem": {"path": "flaremesh.problems.consensus.Consensus", "args": {"dimension": 100}},
}
# bonn is drawn away from the others in each iteration, as far as it is from them
CLIPPING = {
    "algorithm": "dgd-atc",
    "stepsize": 0.1,
    "problem": {"file": UNEVEN["file"], "name": "Apart", "args": {"apart": "bonn", "dimension": 100}},
    "mixing": {"clip": "auto"},
}
# A site may be away until it is seen that the run stalls.
STALLING = CONTRACTING | {"peer_timeout": 600.0}

SIGNAL = """
import psutil, sys
working = [p for p in psutil.process_iter(["cmdline"]) if sys.argv[1] in (p.info["cmdline"] or ())]
for process in working:
    if sys.argv[2] not in (process.info["cmdline"] or ()):
        process.send_signal(int(sys.argv[2]))
        print(process.pid)
"""

# A file where the folder of checkpoints was lets no checkpoint be written.
NO_FOLDERS = """
import pathlib
for folder in pathlib.Path("/workspace/stores").glob("*/checkpoints"):
    folder.rename(folder.with_name("moved"))
    folder.touch()
    print(folder)
"""

ALERTS = {
    "FlareMeshSiteDown": {"site": "bonn"},
    "FlareMeshSiteNotReady": {"site": "bonn"},
    "FlareMeshSiteMissing": {},
    "FlareMeshRunMissesSite": {"site": "bonn"},
    "FlareMeshCheckpointsFail": {"site": "bonn", "slot": "1"},
    "FlareMeshRunStalled": {"site": "dresden", "slot": "0"},
    "FlareMeshSlowNeighbor": {"site": "bonn", "slot": "1"},
    "FlareMeshLinkOnRelay": {"site": "bonn", "peer": "aachen"},
    "FlareMeshMeetingPointDown": {},
    "FlareMeshMeetingLost": {},
    "FlareMeshMeetingPointRefuses": {"reason": "version"},
    "FlareMeshConsensusDiverging": {"slot": "1"},
    "FlareMeshSlowContraction": {"slot": "2"},
    "FlareMeshNonFiniteValues": {"slot": "2"},
    "FlareMeshSiteClipped": {"site": "bonn"},
    "FlareMeshPrivacySpent": {"slot": "1"},
    "FlareMeshCertificateExpiring": {"site": "dresden", "severity": "warning"},
    "FlareMeshConnectionsRefused": {"site": "aachen"},
    "FlareMeshDiskFilling": {"site": "heidelberg"},
}
"""What else the labels of each alert are to say."""


class Scenarios:
    """What was done, and which alerts fired and cleared in time."""

    def __init__(self, mesh: Mesh, prometheus: Watching):
        self.mesh = mesh
        self.prometheus = prometheus
        self.fired: dict[str, list[dict[str, str]]] = {}
        self.cleared: set[str] = set()

    def fires(self, *alerts: str) -> None:
        """Wait until all of them fire, and remember those that do."""
        self._wait(alerts, self._remember, FIRES, "fires")

    def clears(self, *alerts: str) -> None:
        """Wait until none of those that fired does any longer, and remember those."""

        def cleared(alert: str) -> bool:
            if alert in self.fired and not self._of_scenario(alert):
                self.cleared.add(alert)
            return alert in self.cleared

        self._wait([alert for alert in alerts if alert in self.fired], cleared, CLEARS, "clears")

    def _remember(self, alert: str) -> bool:
        if found := self._of_scenario(alert):
            self.fired.setdefault(alert, found)
        return alert in self.fired

    def _of_scenario(self, alert: str) -> list[dict[str, str]]:
        return [found for found in self.prometheus.firing(alert) if ALERTS[alert].items() <= found.items()]

    def _wait(self, alerts: Iterable[str], done: Callable[[str], bool], seconds: float, what: str) -> None:
        started = time.monotonic()
        waiting = list(alerts)
        # the test of each alert tells of what did not come in time
        while waiting and time.monotonic() < started + seconds:
            for alert in filter(done, tuple(waiting)):
                waiting.remove(alert)
                _log.info("%s %s after %.0f s", alert, what, time.monotonic() - started)
            time.sleep(0.5)

    def alone(self) -> None:
        """Wait until one run's processes are left, so that the next run takes the same slot everywhere."""
        wait_until(
            lambda: (
                [s.value for s in self.prometheus.query("sum(flaremesh_running_jobs)")]
                == [len(self.mesh.releases)]
            ),
            60,
            lambda: str(self.prometheus.query("flaremesh_running_jobs")),
        )

    def stall(self, site: str, run_id: str) -> None:
        """Stop the process of a run at a site, once it is seen that the run iterates."""
        info = f'flaremesh_run_info{{site="{site}", run_id="{run_id}"}}'
        iterates = f"flaremesh_iteration_duration_seconds_count > 0 and on (site, slot) {info}"
        wait_until(lambda: self.prometheus.query(iterates), 60)
        self.signal(site, run_id, signal.SIGSTOP)

    def meet(self, *pair: str) -> None:
        """Wait until two sites meet in a run."""
        ends = "|".join(pair)
        met = f'flaremesh_edge_link{{kind="met", site=~"{ends}", peer=~"{ends}"}} == 1'
        wait_until(lambda: self.prometheus.query(met), 60)

    def signal(self, site: str, run_id: str, number: int) -> None:
        """Send a signal to the process of a run at a site."""
        pod = (self.mesh.namespaces[site], "exec", f"{site}-0", "--", "python", "-c", SIGNAL)
        assert kubectl(*pod, run_id, str(number)).split()


@pytest.fixture(scope="module")
def played(mesh: Mesh, prometheus: Watching) -> Scenarios:
    """All scenarios, from first to last."""
    scenarios = Scenarios(mesh, prometheus)
    _before_runs(scenarios)
    try:
        _play_runs(scenarios)
    finally:
        _mend(scenarios)
    _without_a_pod(scenarios)
    scenarios.clears(*ALERTS)
    return scenarios


def _before_runs(scenarios: Scenarios) -> None:
    """A certificate that ends soon, a full volume, two sites that only the relay joins, and two that meet."""
    mesh = scenarios.mesh
    soon = mesh.certificate("dresden", ends=datetime.now(UTC) + timedelta(days=10))
    mesh.upgrade("dresden", "-f", str(soon), *_admitting(mesh, "dresden", "aachen"))
    for site in ("aachen", "bonn"):
        mesh.upgrade(site, "--set-json", "link.from=[]", "--set-json", "meet=[]")
    node, folder = mesh.volume("heidelberg")
    in_node = ("docker", "exec", node)
    call(*in_node, "mount", "-t", "tmpfs", "-o", "size=100m,mode=0777", "tmpfs", folder)
    call(*in_node, "dd", "if=/dev/zero", f"of={folder}/filler", "bs=1M", "count=92")
    mesh.upgrade("heidelberg", "--set", "podAnnotations.note=small", *_admitting(mesh, "heidelberg", "bonn"))
    for site in ("dresden", "heidelberg"):
        mesh.ready(site)
    scenarios.prometheus.scrapes(set(mesh.releases))


def _admitting(mesh: Mesh, site: str, peer: str) -> tuple[str, str]:
    """Options with which the policy of a site lets no in-neighbour dial it but ``peer``."""
    values = yaml.safe_load((mesh.release_folder(site) / "values.yaml").read_text())
    admitted = [rule for rule in values["link"]["from"] if mesh.namespaces[peer] in json.dumps(rule)]
    assert len(admitted) == 1 < len(values["link"]["from"])
    return "--set-json", f"link.from={json.dumps(admitted)}"


def _play_runs(scenarios: Scenarios) -> None:
    mesh = scenarios.mesh
    with running(mesh, "stalling", **STALLING) as stalling:
        scenarios.stall("dresden", stalling)
        with running(mesh, "clipping", **CLIPPING), running(mesh, "exploding", **EXPLODING):
            scenarios.fires("FlareMeshNonFiniteValues", "FlareMeshSiteClipped")
        with running(mesh, "spending", **SPENDING):
            scenarios.fires("FlareMeshPrivacySpent")
        scenarios.clears("FlareMeshPrivacySpent")
        scenarios.alone()
        with (
            running(mesh, "diverging", **DIVERGING),
            # the sites hardly come closer
            running_with_other_weights(mesh, "contracting", 1e-6, **CONTRACTING),
        ):
            dial_as_a_stranger(mesh, "aachen")
            assert kubectl(mesh.namespaces["bonn"], "exec", "bonn-0", "--", "python", "-c", NO_FOLDERS)
            scenarios.meet("heidelberg", "dresden")
            with meeting_point_ousted(mesh):
                scenarios.fires(
                    "FlareMeshConnectionsRefused",
                    "FlareMeshMeetingPointDown",
                    "FlareMeshMeetingLost",
                    "FlareMeshLinkOnRelay",
                    "FlareMeshCertificateExpiring",
                    "FlareMeshDiskFilling",
                    "FlareMeshSlowNeighbor",
                    "FlareMeshSlowContraction",
                    "FlareMeshConsensusDiverging",
                    "FlareMeshCheckpointsFail",
                    "FlareMeshRunStalled",
                )
            knock_in_another_version(mesh)
            scenarios.fires("FlareMeshMeetingPointRefuses")
            scenarios.clears("FlareMeshNonFiniteValues")  # another run has the slot
        scenarios.signal("dresden", stalling, signal.SIGCONT)
        scenarios.clears("FlareMeshRunStalled")


def _mend(scenarios: Scenarios) -> None:
    mesh = scenarios.mesh
    node, folder = mesh.volume("heidelberg")
    call("docker", "exec", node, "umount", "--lazy", folder, check=False)
    _set_back(mesh, "dresden", "heidelberg", "aachen", "bonn")


def _without_a_pod(scenarios: Scenarios) -> None:
    """A site goes in mid-run, and when it comes again its policy does not let it through to the server."""
    mesh = scenarios.mesh
    scale = (mesh.namespaces["bonn"], "scale", "statefulset/bonn")
    with running(mesh, "waiting", **CONTRACTING):
        mesh.upgrade("bonn", "--set", "server.namespace=elsewhere")
        kubectl(*scale, "--replicas=0")
        scenarios.fires("FlareMeshSiteDown", "FlareMeshSiteMissing", "FlareMeshRunMissesSite")
        kubectl(*scale, "--replicas=1")
        scenarios.fires("FlareMeshSiteNotReady")
    _set_back(mesh, "bonn")


def _set_back(mesh: Mesh, *sites: str) -> None:
    """Make these sites again what provisioning made them."""
    at_once(mesh.upgrade, sites)
    at_once(mesh.ready, sites)


@pytest.mark.timeout(900)  # the first test plays all scenarios
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_in_a_scenario_made_for_it_and_clears(alert: str, played: Scenarios):
    assert alert in played.fired, "it did not fire"
    assert alert in played.cleared, f"it still fires: {played.prometheus.firing(alert)}"


def test_every_alert_of_the_file_has_a_scenario(mesh: Mesh):
    file = mesh.folder / "helm/monitoring/flaremesh-monitoring/files/rules.yaml"
    rules = [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
    assert {rule["alert"] for rule in rules if "alert" in rule} == set(ALERTS)


def test_no_alert_fires_without_its_scenario(played: Scenarios):
    names = {s.labels["alertname"] for s in played.prometheus.query('ALERTS{alertstate="firing"}')}
    assert names == set()
