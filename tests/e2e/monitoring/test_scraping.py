"""Who scrapes the participants, and who cannot."""

from collections.abc import Iterator

import pytest
import yaml
from cluster import call, connects, kubectl, objects, wait_until
from installed_mesh import Mesh
from prometheus_client.parser import text_string_to_metric_families
from watching import NAMESPACE, OPTED_OUT, Watching

from flaremesh.metrics.ask import PORT
from flaremesh.p2p.agents.shared import PERIOD_SECONDS

STRANGER = "flaremesh-stranger"
PAGE = """
import sys, urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode())
"""
# under the restricted standard, which the namespaces enforce
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: caller}}
spec:
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 10001, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: caller
      image: {image}
      imagePullPolicy: IfNotPresent
      command: [tini, --, sleep, infinity]
      securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"""


@pytest.fixture(scope="module")
def callers(mesh: Mesh, prometheus: Watching) -> Iterator[tuple[str, str]]:
    """A pod in the scrapers' namespace, and one in another."""
    call("kubectl", "delete", "namespace", STRANGER, "--ignore-not-found")
    call("kubectl", "create", "namespace", STRANGER)
    for namespace in (NAMESPACE, STRANGER):
        kubectl(namespace, "apply", "-f", "-", text=POD.format(image=mesh.topology.deploy.image))
    for namespace in (NAMESPACE, STRANGER):
        kubectl(namespace, "wait", "pod/caller", "--for=condition=Ready", "--timeout=60s")
    yield NAMESPACE, STRANGER
    call("kubectl", "delete", "namespace", STRANGER, "--wait=false")
    kubectl(NAMESPACE, "delete", "pod", "caller", "--wait=false")


@pytest.fixture(scope="module")
def run_id(mesh: Mesh, prometheus: Watching, operated: Watching) -> str:
    """A run that has finished, and ran through several scrapes: one comes every 2 s."""
    result = mesh.run("--iterations", "2500")
    assert result["outcome"] == "finished"
    return str(result["run_id"])


@pytest.mark.parametrize("which", ["prometheus", "operated"])
def test_all_participants_are_scraped_during_a_run(
    mesh: Mesh, run_id: str, which: str, request: pytest.FixtureRequest
):
    prometheus: Watching = request.getfixturevalue(which)
    info = f'flaremesh_run_info{{run_id="{run_id}"}}'
    # a pod that was made anew has series of its own
    running = (
        'max by (mesh, site, slot) (count_over_time((flaremesh_run_state{state="running"} == 1)[10m:1s]))'
    )
    expression = f"{running} * on (mesh, site, slot) {info}"
    samples = wait_until(lambda: prometheus.query(expression), 15)
    assert {(s.labels["mesh"], s.labels["site"]) for s in samples} == {
        (mesh.topology.name, site.name) for site in mesh.topology.sites
    }
    worked = prometheus.query('max_over_time(flaremesh_running_jobs{job="flaremesh"}[10m]) >= 1')
    assert {s.labels["site"] for s in worked} == set(mesh.releases)


def test_discovery_and_the_operator_name_every_series_alike(
    mesh: Mesh, run_id: str, prometheus: Watching, operated: Watching
):
    ours = 'count by (__name__, job, mesh, site, slot, peer) ({__name__=~"flaremesh_.+", job="flaremesh"})'
    series = [
        {tuple(sorted(s.labels.items())) for s in source.query(ours)} for source in (prometheus, operated)
    ]
    assert series[0] == series[1]
    assert len(series[0]) > 100


@pytest.mark.parametrize("which", ["prometheus", "operated"])
def test_the_rules_of_the_file_are_loaded_and_none_fails(
    mesh: Mesh, which: str, request: pytest.FixtureRequest, run_id: str
):
    prometheus: Watching = request.getfixturevalue(which)
    file = mesh.folder / "helm/monitoring/flaremesh-monitoring/files/rules.yaml"
    written = [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]

    def loaded() -> list[str]:
        return sorted(rule["name"] for rule in prometheus.rules() if rule["health"] == "ok")

    expected = sorted(rule.get("alert") or rule["record"] for rule in written)
    wait_until(lambda: loaded() == expected, 60, lambda: str(prometheus.rules()))


def test_a_site_that_opted_out_is_absent_from_the_servers_metrics(
    mesh: Mesh, run_id: str, prometheus: Watching
):
    others = {site.name for site in mesh.topology.sites} - {OPTED_OUT}

    def heard() -> dict[str, float]:
        samples = prometheus.query("flaremesh_shared_metrics_timestamp_seconds")
        return {sample.labels["site"]: sample.value for sample in samples}

    wait_until(lambda: heard().keys() == others, 2 * PERIOD_SECONDS, lambda: str(heard()))
    first = heard()
    # each of the others has sent twice since: a whole period has passed
    twice = 1.5 * PERIOD_SECONDS
    wait_until(
        lambda: all(heard()[site] > first[site] + twice for site in others),
        4 * PERIOD_SECONDS,
        lambda: str(heard()),
    )
    assert heard().keys() == others
    (namespace, pod_name) = (mesh.namespaces["server"], "server-0")
    page = kubectl(namespace, "exec", pod_name, "--", "python", "-c", PAGE, str(PORT))
    shown = {
        sample.labels["site"]
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if "site" in sample.labels
    }
    assert shown == others


def test_scrapers_reach_the_metrics_of_all_participants_and_nobody_else_does(
    mesh: Mesh, callers: tuple[str, str]
):
    for name, namespace in mesh.namespaces.items():
        host = f"{name}.{namespace}.svc"
        reach = [connects(caller, "caller", host, PORT) for caller in callers]
        assert reach == [True, False], name


def test_scrapers_reach_neither_server_nor_links(mesh: Mesh, callers: tuple[str, str]):
    assert not connects(NAMESPACE, "caller", f"server.{mesh.namespaces['server']}.svc", 8002)
    assert not connects(NAMESPACE, "caller", f"bonn.{mesh.namespaces['bonn']}.svc", 8102)


def test_nobody_but_grafana_reaches_prometheus(callers: tuple[str, str]):
    address = kubectl(
        NAMESPACE, "get", "pod", "monitoring-prometheus-0", "--output", "jsonpath={.status.podIP}"
    )
    assert not any(connects(caller, "caller", address, 9090) for caller in callers)


def test_prometheus_runs_under_the_restricted_standard_and_was_never_restarted(prometheus: Watching):
    (namespace,) = [o for o in objects("default", "namespaces") if o["metadata"]["name"] == NAMESPACE]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = {o["metadata"]["name"]: o for o in objects(NAMESPACE, "pods")}
    (container,) = pods["monitoring-prometheus-0"]["status"]["containerStatuses"]
    assert container["restartCount"] == 0
