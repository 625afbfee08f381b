"""A mesh, a Prometheus that the chart installs, and one that the Prometheus Operator runs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import call, collect, commands, kubectl, wait_until
from compressed import compressed
from installed_mesh import EXAMPLE, Mesh
from watching import NAMESPACE, OPTED_OUT, Watching, forwarded

from flaremesh.provision.monitoring_values import PROMETHEUS_IMAGE
from programs import OPERATOR_BUNDLE

OPERATOR = os.environ.get("PROMETHEUS_OPERATOR", OPERATOR_BUNDLE)
ARTIFACTS = Path(__file__).parents[3] / "build" / "e2e-monitoring"

# Grafana's image has no part in this; its dashboards' queries do
SETTINGS = {
    "prometheus": {"interval": "2s", "storage": {"size": "1Gi"}},
    "grafana": {"enabled": False},
    "operator": {"enabled": True, "labels": {"watches": "flaremesh"}},
    "dashboards": {"configMaps": {"enabled": True}},
}

OPERATORS_PROMETHEUS = f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: operated}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: flaremesh-operated}}
rules:
  - {{apiGroups: [""], resources: [pods], verbs: [get, list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: flaremesh-operated}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flaremesh-operated}}
subjects: [{{kind: ServiceAccount, name: operated, namespace: {NAMESPACE}}}]
---
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {{name: operated}}
spec:
  image: {PROMETHEUS_IMAGE}
  version: {PROMETHEUS_IMAGE.rpartition(":")[2]}
  replicas: 1
  serviceAccountName: operated
  scrapeInterval: 2s
  evaluationInterval: 2s
  podMonitorSelector: {{matchLabels: {{watches: flaremesh}}}}
  ruleSelector: {{matchLabels: {{watches: flaremesh}}}}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65534
    fsGroup: 65534
    seccompProfile: {{type: RuntimeDefault}}
"""


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh whose pods are ready, which admits scrapers and jobs with problems in files, and can meet."""
    mesh = Mesh(
        tmp_path_factory.mktemp("e2e"),
        deploy={"monitoring": NAMESPACE},
        server=yaml.safe_load(EXAMPLE.read_text())["server"] | {"meet": {}},
        code={"files": True},
        metrics={"share": ["current_iteration", "workspace_free_bytes"]},
    )
    own = mesh.release_folder(OPTED_OUT) / "mine.yaml"
    own.write_text(yaml.safe_dump({"metrics": {"share": False}}))
    namespaces = sorted({*mesh.namespaces.values(), NAMESPACE})
    call("kubectl", "delete", "namespace", *namespaces, "--ignore-not-found")
    mesh.come_up(ARTIFACTS)
    yield mesh
    call("kubectl", "delete", "namespace", *namespaces, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="session")
def prometheus(mesh: Mesh) -> Iterator[Watching]:
    """The chart's, installed as the README of the mesh's folder says; it scrapes all participants."""
    _install_operator()
    folder = mesh.folder / "helm" / "monitoring"
    rules = folder / "flaremesh-monitoring" / "files" / "rules.yaml"
    rules.write_text(compressed(rules.read_text()))
    (folder / "mine.yaml").write_text(yaml.safe_dump(SETTINGS))
    call("bash", "-euo", "pipefail", "-c", commands(folder / "README.md", "Install"), folder=folder)
    pod = "monitoring-prometheus-0"
    try:
        kubectl(NAMESPACE, "rollout", "status", "statefulset/monitoring-prometheus", "--timeout=120s")
        with forwarded(pod) as prometheus:
            prometheus.scrapes(set(mesh.releases))
            yield prometheus
    finally:
        collect({pod: NAMESPACE}, ARTIFACTS / "monitoring")


@pytest.fixture(scope="session")
def operated(mesh: Mesh, prometheus: Watching) -> Iterator[Watching]:
    """A Prometheus of the operator, which found the chart's PodMonitor; it scrapes all participants."""
    kubectl(NAMESPACE, "apply", "-f", "-", text=OPERATORS_PROMETHEUS)
    pod = "prometheus-operated-0"
    wait_until(lambda: kubectl(NAMESPACE, "get", "pods", "--output", "name", check=False).count(pod), 60)
    kubectl(NAMESPACE, "wait", f"pod/{pod}", "--for=condition=Ready", "--timeout=120s")
    with forwarded(pod) as prometheus:
        prometheus.scrapes(set(mesh.releases))
        yield prometheus


def _install_operator() -> None:
    call("kubectl", "apply", "--server-side", "-f", OPERATOR)
    kubectl("default", "rollout", "status", "deployment/prometheus-operator", "--timeout=120s")
