"""What the objects of a release are, as an admin relies on it."""

from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from helm_python.errors import HelmError
from installation import Installation
from rendering import Rendered, merged, render

from flaremesh.p2p.agents.shared import OFF, SHARE_VARIABLE
from flaremesh.p2p.gate.commands import WORKSPACE_VARIABLE
from flaremesh.p2p.gate.policy import POLICY_VARIABLE

SELECTOR = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}


@pytest.fixture
def minimal(site: dict[str, Any]) -> Rendered:
    return render("flaremesh-site", site)


def with_(site: dict[str, Any], **changes: Any) -> Rendered:
    return render("flaremesh-site", merged(site, changes))


def container(release: Rendered) -> dict[str, Any]:
    (only,) = release.pod["spec"]["containers"]
    result: dict[str, Any] = only
    return result


def environment(release: Rendered) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container(release)["env"]}


def test_every_object_is_named_after_the_release(one_cluster: Installation) -> None:
    for name in one_cluster.participants:
        release = one_cluster.render(name)
        names = {(o["kind"], o["metadata"]["name"]) for o in release.objects}
        assert names == {
            ("ConfigMap", name),
            ("NetworkPolicy", name),
            ("NetworkPolicy", f"{name}-test"),
            ("Pod", f"{name}-test"),
            ("Secret", f"{name}-kit"),
            ("Service", name),
            ("ServiceAccount", name),
            ("StatefulSet", name),
        }


def test_every_object_carries_the_common_labels(minimal: Rendered) -> None:
    common = {"version", "part-of", "managed-by", "name", "instance", "component"}
    for document in minimal.objects:
        labels = document["metadata"]["labels"]
        assert {f"app.kubernetes.io/{label}" for label in common} | {"helm.sh/chart"} <= labels.keys()


def test_selectors_outlive_a_new_version(minimal: Rendered) -> None:
    labels = minimal.pod["metadata"]["labels"]
    selectors = [
        minimal.one("StatefulSet")["spec"]["selector"]["matchLabels"],
        minimal.one("Service")["spec"]["selector"],
        minimal.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.keys() == SELECTOR
        assert selector.items() <= labels.items()


def test_further_labels_and_annotations_replace_none_of_the_charts(site: dict[str, Any]) -> None:
    label, note = "app.kubernetes.io/instance", "checksum/kit"
    pod = with_(site, podLabels={label: "x", "team": "y"}, podAnnotations={note: "x", "owner": "y"}).pod
    assert (pod["metadata"]["labels"][label], pod["metadata"]["labels"]["team"]) == ("bonn", "y")
    assert pod["metadata"]["annotations"][note] != "x"
    assert pod["metadata"]["annotations"]["owner"] == "y"


def test_neighbours_find_the_pod_before_it_is_ready(minimal: Rendered) -> None:
    service = minimal.one("Service")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True


def test_no_pod_can_talk_to_kubernetes(minimal: Rendered) -> None:
    assert minimal.one("ServiceAccount")["automountServiceAccountToken"] is False
    for pod in minimal.pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False
    assert [o for o in minimal.objects if "Role" in o["kind"]] == []


def test_the_root_file_system_is_read_only_and_folders_in_memory_are_limited(minimal: Rendered) -> None:
    for pod in minimal.pods:
        for each in pod["spec"]["containers"]:
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
    folders = [v["emptyDir"] for v in minimal.pod["spec"]["volumes"] if "emptyDir" in v]
    assert len(folders) == 3
    assert all(folder["medium"] == "Memory" and folder["sizeLimit"] for folder in folders)


def test_the_kit_is_mounted_read_only_for_its_group(minimal: Rendered) -> None:
    mounts = {mount["mountPath"]: mount for mount in container(minimal)["volumeMounts"]}
    assert mounts["/workspace/startup"]["readOnly"] is True
    (secret,) = (v["secret"] for v in minimal.pod["spec"]["volumes"] if "secret" in v)
    assert secret == {"secretName": "bonn-kit", "defaultMode": 0o440}


def test_a_secret_of_ones_own_takes_the_place_of_the_charts(site: dict[str, Any]) -> None:
    release = with_(site, kit={"existingSecret": "ours", "startup": {}})
    assert release.of("Secret") == []
    (secret,) = (v["secret"] for v in release.pod["spec"]["volumes"] if "secret" in v)
    assert secret["secretName"] == "ours"


@pytest.mark.parametrize("part", ["startup", "local"])
def test_a_new_kit_restarts_the_pod(site: dict[str, Any], minimal: Rendered, part: str) -> None:
    changed = with_(site, kit={part: {"file": "new"}})
    sums = [release.pod["metadata"]["annotations"]["checksum/kit"] for release in (minimal, changed)]
    assert sums[0] != sums[1]
    assert with_(site, storage={"size": "9Gi"}).pod["metadata"]["annotations"]["checksum/kit"] == sums[0]


def test_no_pod_takes_the_memory_of_its_node_unless_it_is_told_to(
    minimal: Rendered, site: dict[str, Any]
) -> None:
    assert container(minimal)["resources"] == {"requests": {"memory": "512Mi"}, "limits": {"memory": "4Gi"}}
    raised = with_(site, resources={"limits": {"memory": "32Gi"}})
    assert container(raised)["resources"]["limits"] == {"memory": "32Gi"}
    free = with_(site, resources={"limits": {"memory": None}})
    assert "memory" not in (container(free)["resources"].get("limits") or {})


def test_a_site_with_gpus_asks_for_them(site: dict[str, Any]) -> None:
    limits = {"limits": {"memory": "4Gi"}}
    release = with_(site, gpus={"count": 2}, runtimeClassName="nvidia", resources=limits)
    assert container(release)["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": 2}
    assert release.pod["spec"]["runtimeClassName"] == "nvidia"
    assert environment(release)["FLAREMESH_GPUS"] == "2"


def test_a_site_without_gpus_asks_for_none(minimal: Rendered) -> None:
    assert set(container(minimal)["resources"].get("limits", {})) == {"memory"}
    assert "runtimeClassName" not in minimal.pod["spec"]
    assert environment(minimal)["FLAREMESH_GPUS"] == "0"


def test_a_site_that_shares_no_metrics_tells_its_agent(site: dict[str, Any], minimal: Rendered) -> None:
    assert SHARE_VARIABLE not in environment(minimal)
    assert environment(with_(site, metrics={"share": False}))[SHARE_VARIABLE] == OFF


def test_nothing_is_reached_from_outside_unless_asked_for(minimal: Rendered) -> None:
    assert [s["metadata"]["name"] for s in minimal.of("Service")] == ["bonn"]


def test_a_node_port_has_the_number_of_the_port(site: dict[str, Any]) -> None:
    link = {"firstPort": 30110, "lastPort": 30112}
    external = with_(site, service={"type": "NodePort"}, link=link).one("Service", "-external")["spec"]
    numbers = [(p["port"], p["nodePort"], p["targetPort"]) for p in external["ports"]]
    assert numbers == [(port, port, f"link-{port}") for port in (30110, 30111, 30112)]
    assert external["selector"].keys() == SELECTOR


def test_a_load_balancer_gets_annotations_and_who_may_use_it(site: dict[str, Any]) -> None:
    service = {
        "type": "LoadBalancer",
        "annotations": {"example.org/network": "internal"},
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
    }
    release = with_(site, service=service, link={"firstPort": 8102, "lastPort": 8102})
    external = release.one("Service", "-external")
    assert external["metadata"]["annotations"] == service["annotations"]
    assert external["spec"]["loadBalancerSourceRanges"] == ["192.0.2.0/24"]
    assert [port.get("nodePort") for port in external["spec"]["ports"]] == [None]


@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer"])
def test_a_site_that_nobody_dials_is_not_exposed(site: dict[str, Any], kind: str) -> None:
    assert len(with_(site, service={"type": kind}).of("Service")) == 1


def test_drains_wait_for_nobody_unless_asked_to(site: dict[str, Any], minimal: Rendered) -> None:
    assert minimal.of("PodDisruptionBudget") == []
    budget = with_(site, podDisruptionBudget={"enabled": True}).one("PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 1


def test_a_claim_of_ones_own_takes_the_place_of_the_charts(site: dict[str, Any], minimal: Rendered) -> None:
    (made,) = minimal.one("StatefulSet")["spec"]["volumeClaimTemplates"]
    assert made["spec"]["resources"]["requests"]["storage"] == "2Gi"
    release = with_(site, storage={"existingClaim": "ours"})
    assert "volumeClaimTemplates" not in release.one("StatefulSet")["spec"]
    assert {"name": "workspace", "persistentVolumeClaim": {"claimName": "ours"}} in release.pod["spec"][
        "volumes"
    ]


def test_every_probe_asks_the_port_of_the_metrics(site: dict[str, Any]) -> None:
    release = with_(site, metrics={"port": 9999})
    only = container(release)
    assert {"name": "metrics", "containerPort": 9999} in only["ports"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert only[probe]["httpGet"]["port"] == "metrics"
    assert environment(release)["FLAREMESH_METRICS_PORT"] == "9999"
    (test,) = release.of("Pod")
    assert test["spec"]["containers"][0]["args"] == ["http://bonn:9999/doctor"]


def test_the_pod_has_the_time_to_log_out(one_cluster: Installation) -> None:
    for name, atmost in (("bonn", 30), ("server", 45)):
        with pytest.raises(HelmError, match="terminationGracePeriodSeconds"):
            one_cluster.render(name, further={"terminationGracePeriodSeconds": atmost - 1})


def test_a_digest_pins_the_image(site: dict[str, Any], minimal: Rendered) -> None:
    assert container(minimal)["image"].startswith("flaremesh:")
    digest = f"sha256:{'0' * 64}"
    assert container(with_(site, image={"digest": digest}))["image"] == f"flaremesh@{digest}"


def test_notes_say_what_to_do_next(one_cluster: Installation) -> None:
    for name in one_cluster.participants:
        notes = one_cluster.render(name).notes
        assert f"kubectl -n digits-{name} rollout status statefulset/{name}" in notes
        assert f"helm test {name} -n digits-{name}" in notes
    assert "flaremesh run" in one_cluster.render("server").notes


def test_notes_say_what_does_not_work_yet(minimal: Rendered) -> None:
    assert "no address for direct links" in minimal.notes
    assert "metrics.scraperNamespace" in minimal.notes


def test_a_large_user_number_stays_a_number(site: dict[str, Any]) -> None:
    for pod in with_(site, podSecurity={"user": 1000660000, "group": 1000670000}).pods:
        context = pod["spec"]["securityContext"]
        assert repr((context["runAsUser"], context["runAsGroup"])) == "(1000660000, 1000670000)"


def test_across_clusters_whoever_is_dialled_has_node_ports(two_clusters: Installation) -> None:
    exposed = {}
    for name in two_clusters.participants:
        release = two_clusters.render(name)
        external = [s for s in release.of("Service") if s["metadata"]["name"] == f"{name}-external"]
        exposed[name] = [port["nodePort"] for service in external for port in service["spec"]["ports"]]
    links = [30110, 30111, 30112, 30113]
    assert exposed == {"server": [30002], "heidelberg": links, "bonn": links, "aachen": []}


def test_the_sites_policy_is_read_only_and_its_changes_reach_the_pod(site: dict[str, Any]) -> None:
    rules = {"approval": "required", "hours": {"times": ["20:00-06:00"]}, "code": ["1" * 64]}
    release = with_(site, policy=rules)

    place = PurePosixPath(environment(release)[POLICY_VARIABLE])
    mounts = {mount["mountPath"]: mount for mount in container(release)["volumeMounts"]}
    mount = mounts[str(place.parent)]  # a folder: Kubernetes never changes what a subPath mounts
    assert mount["readOnly"]
    assert "subPath" not in mount
    volumes = {volume["name"]: volume for volume in release.pod["spec"]["volumes"]}
    held = {o["metadata"]["name"]: o for o in release.objects if o["kind"] == "ConfigMap"}
    text = held[volumes[mount["name"]]["configMap"]["name"]]["data"][place.name]
    assert yaml.safe_load(text) == rules


def test_without_a_policy_nothing_of_one_is_made(minimal: Rendered) -> None:
    assert POLICY_VARIABLE not in environment(minimal)
    assert len([o for o in minimal.objects if o["kind"] == "ConfigMap"]) == 1


def test_a_misspelt_rule_is_refused_by_helm(site: dict[str, Any]) -> None:
    with pytest.raises(HelmError, match="aproval"):
        with_(site, policy={"aproval": "required"})


def test_the_pod_has_the_commands_of_its_admin(minimal: Rendered) -> None:
    mounts = {mount["mountPath"] for mount in container(minimal)["volumeMounts"]}
    assert environment(minimal)[WORKSPACE_VARIABLE] in mounts
