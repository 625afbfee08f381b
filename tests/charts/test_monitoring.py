"""The chart that watches a mesh."""

import base64
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from connections import Pod, may_connect, pod_of
from crds import DEFINITIONS, problems
from helm_python.errors import HelmError
from installation import MONITORING, Installation
from rendering import CHARTS, Object, Rendered, merged, render

from flaremesh.provision.releases import ReleaseError, releases
from flaremesh.topology.load import load
from programs import OPERATOR_BUNDLE, lacking, program

REPOSITORY = Path(__file__).parents[2]
NAMESPACE = "monitoring"
METRICS, HTTP = 9464, {"prometheus": 9090, "grafana": 3000}
OF_ITS_OWN = {"prometheus": {"enabled": False}, "grafana": {"enabled": False}}


@pytest.fixture(scope="module")
def folder(one_cluster: Installation) -> Path:
    return one_cluster.folder / "helm" / "monitoring"


@pytest.fixture(scope="module")
def values(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "values.yaml").read_text()))


def installed(values: dict[str, Any], **changes: Any) -> Rendered:
    return render(MONITORING, merged(values, changes), "monitoring", NAMESPACE)


@pytest.fixture(scope="module")
def release(values: dict[str, Any]) -> Rendered:
    return installed(values)


def configuration(release: Rendered) -> dict[str, str]:
    return dict(release.one("ConfigMap", "-prometheus")["data"])


def test_provisioning_names_the_mesh_and_the_namespaces(values: dict[str, Any], one_cluster: Installation):
    namespaces = sorted(f"digits-{name}" for name in one_cluster.participants)
    assert values == {"meshes": ["kubernetes-digits-ring4"], "namespaces": namespaces}


def test_provisioning_copies_the_chart_and_says_how_to_install_it(folder: Path):
    assert (folder / MONITORING / "Chart.yaml").read_text() == (
        CHARTS / MONITORING / "Chart.yaml"
    ).read_text()
    readme = (folder / "README.md").read_text()
    assert "helm install monitoring ./flaremesh-monitoring --namespace monitoring \\\n" in readme
    assert "-f values.yaml -f mine.yaml" in readme


def test_no_monitoring_is_provisioned_where_no_namespace_may_scrape(two_clusters: Installation):
    assert not (two_clusters.folder / "helm" / "monitoring").exists()


def test_a_site_cannot_take_the_name_of_the_release():
    topology = load(REPOSITORY / "provision/kubernetes-digits-ring4.yaml")
    site = topology.sites[0].model_copy(update={"name": "monitoring", "link": None})
    with pytest.raises(ReleaseError, match="rename that site"):
        releases(topology.model_copy(update={"sites": (*topology.sites, site)}))


def test_prometheus_takes_its_configuration_and_rules(values: dict[str, Any], tmp_path: Path):
    release = installed(values, prometheus={"alertmanagers": ["alertmanager:9093"]})
    for name, text in configuration(release).items():
        (tmp_path / name).write_text(text)
    check = [program("promtool"), "check", "config", "prometheus.yml"]
    ended = subprocess.run(check, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_rules_are_those_of_the_file_for_prometheus_and_for_the_operator(values: dict[str, Any]):
    release = installed(values, operator={"enabled": True})
    rules = yaml.safe_load((CHARTS / MONITORING / "files/rules.yaml").read_text())
    assert rules["groups"]
    assert yaml.safe_load(configuration(release)["rules.yaml"]) == rules
    assert release.one("PrometheusRule")["spec"] == rules


def alerts(values: dict[str, Any], **rules: Any) -> list[dict[str, Any]]:
    """Those that the operator's Prometheus and the chart's own get, which are the same."""
    release = installed(values, operator={"enabled": True}, rules=rules)
    spec = release.one("PrometheusRule")["spec"]
    assert yaml.safe_load(configuration(release)["rules.yaml"]) == spec
    return [rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule]


def test_an_alert_that_does_not_suit_is_left_out_and_all_others_stay(values: dict[str, Any]):
    before = alerts(values)
    after = alerts(values, alerts={"FlareMeshSlowNeighbor": {"enabled": False}})
    assert after == [rule for rule in before if rule["alert"] != "FlareMeshSlowNeighbor"]
    assert len(after) == len(before) - 1


def test_an_alert_takes_the_severity_and_the_time_of_the_admin(values: dict[str, Any]):
    before = alerts(values)
    after = alerts(values, alerts={"FlareMeshSlowNeighbor": {"severity": "critical", "for": "1h"}})
    (changed,) = [rule for rule in after if rule not in before]
    assert changed["alert"] == "FlareMeshSlowNeighbor"
    assert (changed["labels"]["severity"], changed["for"]) == ("critical", "1h")


def test_the_alerts_link_to_the_admins_copy_of_the_runbooks(values: dict[str, Any]):
    links = {
        rule["annotations"]["runbook_url"] for rule in alerts(values, runbooks="https://wiki.example/mesh")
    }
    assert "https://wiki.example/mesh#flaremeshsitedown" in links
    assert all(link.startswith("https://wiki.example/mesh#flaremesh") for link in links)


def test_an_alert_that_there_is_not_is_refused_with_those_that_there_are(values: dict[str, Any]):
    with pytest.raises(HelmError, match="no alert FlareMeshSlow; there are FlareMeshSiteDown, "):
        alerts(values, alerts={"FlareMeshSlow": {"enabled": False}})


def test_discovery_and_the_operator_choose_the_same_pods_and_give_them_the_same_labels(
    values: dict[str, Any],
):
    release = installed(values, operator={"enabled": True})
    (scrape,) = yaml.safe_load(configuration(release)["prometheus.yml"])["scrape_configs"]
    monitor = release.one("PodMonitor")["spec"]
    (discovery,), (endpoint,) = scrape["kubernetes_sd_configs"], monitor["podMetricsEndpoints"]
    assert discovery["namespaces"]["names"] == monitor["namespaceSelector"]["matchNames"]
    assert discovery["selectors"] == [
        {"role": "pod", "label": "=".join(*monitor["selector"]["matchLabels"].items())}
    ]
    assert not {"honor_labels", "honorLabels"} & (scrape.keys() | endpoint.keys())
    camel = {"source_labels": "sourceLabels", "target_label": "targetLabel"}
    assert endpoint["metricRelabelings"] == [
        {camel.get(key, key): value for key, value in rule.items()}
        for rule in scrape["metric_relabel_configs"]
    ]
    given = {rule["target_label"]: rule["source_labels"] for rule in scrape["relabel_configs"][1:]}
    assert given == {
        rule["targetLabel"]: rule["sourceLabels"]
        for rule in endpoint["relabelings"]
        if "sourceLabels" in rule
    }
    assert {"targetLabel": "job", "replacement": scrape["job_name"]} in endpoint["relabelings"]
    assert scrape["relabel_configs"][0]["regex"] == f"{endpoint['port']};({values['meshes'][0]})"


def test_the_documented_scrape_configuration_is_the_charts(release: Rendered):
    _, head, jobs = configuration(release)["prometheus.yml"].partition("scrape_configs:\n")
    assert head + jobs.rstrip() in (REPOSITORY / "docs/monitoring.md").read_text()


def test_prometheus_may_list_pods_of_these_namespaces_and_nothing_else(
    release: Rendered, values: dict[str, Any]
):
    assert {o["kind"] for o in release.objects if "Role" in o["kind"]} == {"Role", "RoleBinding"}
    for kind in ("Role", "RoleBinding"):
        assert [o["metadata"]["namespace"] for o in release.of(kind)] == values["namespaces"]
    for role in release.of("Role"):
        (rule,) = role["rules"]
        assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    account = {"kind": "ServiceAccount", "name": "monitoring-prometheus", "namespace": NAMESPACE}
    assert all(binding["subjects"] == [account] for binding in release.of("RoleBinding"))
    tokens = {
        o["metadata"]["name"]: o["spec"]["template"]["spec"]["automountServiceAccountToken"]
        for o in release.of("StatefulSet")
    }
    assert tokens == {"monitoring-prometheus": True, "monitoring-grafana": False}


def test_the_participants_and_the_policy_of_prometheus_let_it_scrape_and_nothing_else(
    release: Rendered, one_cluster: Installation
):
    rules = [(NAMESPACE, policy) for policy in release.of("NetworkPolicy")]
    pods = {}
    for name in one_cluster.participants:
        participant = one_cluster.render(name)
        pods[name] = pod_of(participant, f"digits-{name}")
        rules += [(f"digits-{name}", policy) for policy in participant.of("NetworkPolicy")]
    prometheus, grafana = (pod_of(release, NAMESPACE, f"-{name}") for name in HTTP)
    stranger = Pod("default", prometheus.labels)
    for pod in pods.values():
        assert may_connect(prometheus, pod, METRICS, rules)
        assert not may_connect(prometheus, pod, 8102, rules)
        assert not may_connect(prometheus, pod, 8002, rules)
        assert not may_connect(grafana, pod, METRICS, rules)
        assert not may_connect(stranger, pod, METRICS, rules)
        assert not may_connect(pod, prometheus, HTTP["prometheus"], rules)


def test_grafana_reaches_prometheus_and_nobody_reaches_them_but_through_kubectl(release: Rendered):
    rules = [(NAMESPACE, policy) for policy in release.of("NetworkPolicy")]
    prometheus, grafana = (pod_of(release, NAMESPACE, f"-{name}") for name in HTTP)
    assert may_connect(grafana, prometheus, HTTP["prometheus"], rules)
    outside = Pod(address="198.51.100.7")
    for stranger in (Pod(NAMESPACE, {}), Pod("default", grafana.labels), outside):
        for name, pod in (("prometheus", prometheus), ("grafana", grafana)):
            assert not may_connect(stranger, pod, HTTP[name], rules)
            assert not may_connect(pod, stranger, 80, rules)
    assert may_connect(prometheus, outside, 6443, rules), "the cluster's API"
    assert not may_connect(grafana, outside, 443, rules)


@pytest.mark.parametrize("component", ["prometheus", "grafana"])
def test_prometheus_and_grafana_ask_the_same_name_servers_as_the_participants(
    release: Rendered, one_cluster: Installation, component: str
):
    def names(policies: list[Object], policy: str) -> Object:
        (egress,) = [p["spec"]["egress"] for p in policies if p["metadata"]["name"] == policy]
        return dict(egress[0])

    of_a_site = names(one_cluster.render("bonn").of("NetworkPolicy"), "bonn")
    assert {port["port"] for port in of_a_site["ports"]} == {53}
    assert names(release.of("NetworkPolicy"), f"monitoring-{component}") == of_a_site


@pytest.mark.parametrize("component", ["prometheus", "grafana"])
def test_prometheus_or_grafana_can_be_left_out(values: dict[str, Any], component: str):
    grafana = {"grafana": {"prometheusUrl": "http://prometheus.example.org:9090"}}
    release = installed(values, **merged(grafana, {component: {"enabled": False}}))
    names = {o["metadata"]["name"] for o in release.objects}
    assert f"monitoring-{component}" not in names
    assert len([name for name in names if name in ("monitoring-prometheus", "monitoring-grafana")]) == 1


def test_grafana_alone_needs_the_address_of_a_prometheus(values: dict[str, Any]):
    with pytest.raises(HelmError, match=r"grafana\.prometheusUrl"):
        installed(values, prometheus={"enabled": False})
    other = "http://prometheus.example.org:9090"
    release = installed(values, prometheus={"enabled": False}, grafana={"prometheusUrl": other})
    assert datasource(release)["url"] == other


def datasource(release: Rendered) -> dict[str, Any]:
    data = release.one("ConfigMap", "-grafana")["data"]
    (only,) = yaml.safe_load(data["datasources.yaml"])["datasources"]
    return dict(only)


def test_grafana_asks_the_charts_prometheus_as_often_as_it_scrapes(values: dict[str, Any]):
    source = datasource(installed(values, prometheus={"interval": "20s"}))
    assert source["url"] == "http://monitoring-prometheus:9090"
    assert source["jsonData"] == {"timeInterval": "20s"}


def test_grafana_shows_every_dashboard(release: Rendered):
    files = {
        path.stem: path.read_text() for path in (CHARTS / MONITORING / "files/dashboards").glob("*.json")
    }
    assert files
    shown = {}
    for source in volume(release, "dashboards")["projected"]["sources"]:
        (config_map,) = [
            o for o in release.of("ConfigMap") if o["metadata"]["name"] == source["configMap"]["name"]
        ]
        shown |= config_map["data"]
    assert shown == {f"{name}.json": text for name, text in files.items()}
    (provider,) = yaml.safe_load(release.one("ConfigMap", "-grafana")["data"]["dashboards.yaml"])["providers"]
    (container,) = release.one("StatefulSet", "-grafana")["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts[provider["options"]["path"]] == "dashboards"


def volume(release: Rendered, name: str) -> Object:
    pod = release.one("StatefulSet", "-grafana")["spec"]["template"]["spec"]
    (only,) = [v for v in pod["volumes"] if v["name"] == name]
    return dict(only)


def test_a_config_map_stays_below_what_a_cluster_stores(release: Rendered):
    for config_map in release.of("ConfigMap"):
        assert sum(len(text.encode()) for text in config_map["data"].values()) < 2**20


def test_a_dashboard_that_is_too_large_is_refused(values: dict[str, Any], tmp_path: Path):
    chart = Path(shutil.copytree(CHARTS / MONITORING, tmp_path / MONITORING))
    (chart / "files/dashboards/large.json").write_text('"' + "x" * 2**20 + '"')
    with pytest.raises(HelmError, match=r"large\.json"):
        render(chart, values)


def test_a_clusters_own_grafana_gets_the_config_maps_alone(values: dict[str, Any]):
    release = installed(values, **OF_ITS_OWN, dashboards={"configMaps": {"enabled": True}})
    assert {o["kind"] for o in release.objects} == {"ConfigMap"}
    for config_map in release.of("ConfigMap"):
        assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert "prometheus.yml" not in config_map["data"]


def test_a_field_that_the_operator_would_drop_is_found(values: dict[str, Any]):
    if not DEFINITIONS:
        lacking(
            "PROMETHEUS_OPERATOR names no file with the definitions of the Prometheus Operator",
            f"curl -fsSLo bundle.yaml {OPERATOR_BUNDLE}; export PROMETHEUS_OPERATOR=$PWD/bundle.yaml",
        )
    monitor = installed(values, operator={"enabled": True}).one("PodMonitor")
    assert list(problems(monitor)) == []
    monitor["spec"]["podMetricsEndpoints"][0]["honourLabels"] = True
    assert len(list(problems(monitor))) == 1


def test_a_clusters_own_operator_gets_a_monitor_and_rules_alone(values: dict[str, Any]):
    release = installed(values, **OF_ITS_OWN, operator={"enabled": True, "labels": {"release": "kps"}})
    assert {o["kind"] for o in release.objects} == {"PodMonitor", "PrometheusRule"}
    assert all(o["metadata"]["labels"]["release"] == "kps" for o in release.objects)


def test_the_admins_password_is_long_and_not_the_same_in_two_installations(values: dict[str, Any]):
    secrets = [installed(values).one("Secret")["data"]["admin-password"] for _ in range(2)]
    assert secrets[0] != secrets[1]
    assert len(base64.b64decode(secrets[0])) >= 20


def test_a_password_of_ones_own_takes_the_place_of_the_charts(values: dict[str, Any]):
    release = installed(values, grafana={"existingSecret": "ours"})
    assert release.of("Secret") == []
    (container,) = release.one("StatefulSet", "-grafana")["spec"]["template"]["spec"]["containers"]
    (password,) = [e for e in container["env"] if e["name"] == "GF_SECURITY_ADMIN_PASSWORD"]
    assert password["valueFrom"]["secretKeyRef"] == {"name": "ours", "key": "admin-password"}


def test_nobody_looks_without_a_password_unless_it_is_said(values: dict[str, Any], release: Rendered):
    def anonymous(release: Rendered) -> str:
        (container,) = release.one("StatefulSet", "-grafana")["spec"]["template"]["spec"]["containers"]
        return str(next(e["value"] for e in container["env"] if e["name"] == "GF_AUTH_ANONYMOUS_ENABLED"))

    assert anonymous(release) == "false"
    assert anonymous(installed(values, grafana={"anonymousViewer": True})) == "true"


def test_a_new_configuration_restarts_the_pod_that_reads_it(values: dict[str, Any], release: Rendered):
    changed = installed(values, meshes=["another"])
    sums = {
        name: [
            r.one("StatefulSet", name)["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for r in (release, changed)
        ]
        for name in HTTP
    }
    assert sums["prometheus"][0] != sums["prometheus"][1]
    assert sums["grafana"][0] == sums["grafana"][1]


def test_the_root_file_system_is_read_only(release: Rendered):
    for pod in release.pods:
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_notes_say_what_to_do_next(values: dict[str, Any]):
    release = installed(values, operator={"enabled": True}, dashboards={"configMaps": {"enabled": True}})
    for words in (
        "port-forward service/monitoring-grafana 3000",
        '{{index .data "admin-password" | base64decode}}',
        "deploy.monitoring: monitoring",
        "operator.labels",
        "grafana_dashboard",
    ):
        assert words in release.notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meshes": []}, "/meshes"),
        ({"namespaces": []}, "/namespaces"),
        ({"prometheus": {"interval": "often"}}, "/prometheus/interval"),
        ({"prometheus": {"retention": "long"}}, "/prometheus/retention"),
        ({"grafana": {"password": "x"}}, "password"),
        (
            {"rules": {"alerts": {"FlareMeshSiteDown": {"for": "long"}}}},
            "/rules/alerts/FlareMeshSiteDown/for",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_a_message_that_names_it(
    values: dict[str, Any], change: dict[str, Any], words: str
):
    with pytest.raises(HelmError, match=words):
        installed(values, **change)
