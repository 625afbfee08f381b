"""Everything that is rendered, judged by Kubernetes' schemas and by Pod Security."""

import json
import subprocess
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from crds import problems
from installation import MONITORING, NAMES, PARTICIPANTS, Installation, every_option_of
from rendering import CHARTS, Rendered, merged, render
from restricted import violations

from flaremesh import __version__
from programs import program

KUBERNETES = ("1.32", "1.34", "1.37")
EXAMPLES = ("one_cluster", "two_clusters")


@pytest.fixture(params=[*EXAMPLES, *NAMES, "least values"])
def releases(request: pytest.FixtureRequest, site: dict[str, Any]) -> list[Rendered]:
    if request.param in EXAMPLES:
        installation: Installation = request.getfixturevalue(request.param)
        return [installation.render(name) for name in installation.participants]
    every = every_option_of(request.param) if request.param in NAMES else {}
    if request.param == MONITORING:
        own = {"storage": {"existingClaim": ""}, "image": {"digest": ""}, "priorityClassName": ""}
        least = {"meshes": every["meshes"], "namespaces": every["namespaces"]}
        without = merged(every, {"prometheus": own, "grafana": own | {"existingSecret": ""}})
        return [render(MONITORING, values) for values in (every, without, least)]
    if request.param in PARTICIPANTS:
        without = merged(
            every, {"kit": {"existingSecret": ""}, "storage": {"existingClaim": ""}, "image": {"digest": ""}}
        )
        node_port = merged(every, {"service": {"type": "NodePort", "loadBalancerSourceRanges": []}})
        return [render(request.param, values) for values in (every, without, node_port)]
    return [render("flaremesh-site", site)]


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_fits_the_schemas_of_kubernetes(releases: list[Rendered], version: str) -> None:
    for release in releases:
        assert len(release.objects) > 5
        for document in release.objects:
            if document["apiVersion"].startswith("monitoring.coreos.com"):
                assert list(problems(document)) == []
            else:
                kubernetes_validate.validate(document, version, strict=True)


def test_every_pod_fits_the_restricted_pod_security_standard(releases: list[Rendered]) -> None:
    for release in releases:
        assert len(release.pods) == 2
        assert [problem for pod in release.pods for problem in violations(pod["spec"])] == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}, "volume root of type hostPath"),
        ({"securityContext": {"sysctls": [{"name": "kernel.shm", "value": "1"}]}}, "sysctls"),
        ({"securityContext": {"runAsNonRoot": False}}, "main may run as root"),
        ({"securityContext": {"runAsUser": 0}}, "pod runs as user 0"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "main has no seccomp profile"),
        ({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}, "pod has SELinux options"),
        (
            {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}},
            "pod has no AppArmor profile",
        ),
        (
            {"securityContext": {"windowsOptions": {"hostProcess": True}}},
            "pod is a process of a Windows host",
        ),
        ({"container": {"privileged": True}}, "main is privileged"),
        ({"container": {"allowPrivilegeEscalation": True}}, "main may escalate privileges"),
        ({"container": {"capabilities": {"drop": ["NET_RAW"]}}}, "main keeps capabilities"),
        ({"container": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}}, "main adds capabilities"),
        ({"container": {"procMount": "Unmasked"}}, "main has an unmasked /proc"),
        ({"ports": [{"containerPort": 80, "hostPort": 80}]}, "main has a port of the host"),
    ],
)
def test_a_pod_outside_of_the_standard_is_found(change: dict[str, Any], problem: str) -> None:
    spec: dict[str, Any] = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    assert list(violations(spec)) == []
    main = spec["containers"][0]
    main["securityContext"] |= change.pop("container", {})
    main["ports"] = change.pop("ports", [])
    assert list(violations(merged(spec, change))) == [problem]


@pytest.mark.parametrize("name", ["no", "y", "null", "true"])
@pytest.mark.parametrize("chart", PARTICIPANTS)
def test_a_name_that_yaml_takes_for_something_else_stays_a_name(chart: str, name: str) -> None:
    every = merged(every_option_of(chart), {"name": name, "mesh": name, "kit": {"existingSecret": ""}})
    for peers in (every.get("sites", []), every.get("link", {}).get("to", [])):
        for peer in peers:
            peer |= {"name": name, "namespace": name}
    for document in render(chart, every, name, name).objects:
        kubernetes_validate.validate(document, KUBERNETES[-1], strict=True)
        assert document["metadata"]["name"].split("-")[0] == name


def test_helm_finds_nothing_to_complain_about(chart: str, every_option: dict[str, Any]) -> None:
    report = helm_python.lint(CHARTS / chart, every_option, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if "icon is recommended" not in str(m)] == []


def test_the_helm_of_this_machine_renders_the_same(
    chart: str, every_option: dict[str, Any], tmp_path: Path
) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps(every_option))
    text = subprocess.run(
        [program("helm"), "template", "bonn", str(CHARTS / chart), "-n", "ring-bonn", "-f", str(values)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    objects = [document for document in yaml.safe_load_all(text) if document]
    expected = render(chart, every_option).objects
    assert sorted(map(_key, objects)) == sorted(map(_key, expected))
    for document in expected:
        assert document in objects


def _key(document: dict[str, Any]) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


@pytest.fixture
def umbrella(tmp_path: Path) -> Path:
    """A chart of the user's own with all of ours."""
    umbrella = tmp_path / "umbrella"
    (umbrella / "charts").mkdir(parents=True)
    dependencies = [{"name": chart, "version": __version__} for chart in NAMES]
    about = {"apiVersion": "v2", "name": "umbrella", "version": __version__, "dependencies": dependencies}
    (umbrella / "Chart.yaml").write_text(yaml.safe_dump(about))
    for chart in NAMES:
        (umbrella / "charts" / chart).symlink_to(CHARTS / chart)
    return umbrella


def test_charts_under_one_umbrella_render_what_each_renders_alone(umbrella: Path) -> None:
    """Go templates share one space of names, in which the last definition of a name wins."""
    values = {chart: every_option_of(chart) for chart in NAMES}
    for chart in PARTICIPANTS:
        values[chart]["name"] = "bonn"  # as the release of each alone is
    together = render(umbrella, values, name="bonn").objects
    alone = [document for chart in NAMES for document in render(chart, values[chart], name="bonn").objects]
    assert sorted(together, key=json.dumps) == sorted(alone, key=json.dumps)


def test_participants_in_one_release_are_named_as_the_topology_names_them(umbrella: Path) -> None:
    own = {chart: {"kit": {"existingSecret": ""}} for chart in PARTICIPANTS}
    values = merged({chart: every_option_of(chart) for chart in NAMES}, own)
    names = [values[chart]["name"] for chart in PARTICIPANTS]
    release = render(umbrella, values, name="all")
    keys = [_key(document) for document in release.objects]
    assert len(keys) == len(set(keys)), "no object stands in the place of another"
    participants = {o["metadata"]["name"] for o in release.of("StatefulSet")}
    assert participants == {*names, "all-prometheus", "all-grafana"}
    assert {*names} < {o["metadata"]["name"] for o in release.of("Service")}, "what neighbours dial"
