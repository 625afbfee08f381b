"""The values of the chart flaremesh-monitoring; see values.py."""

from typing import Annotated, Any, Literal

from pydantic import Field

from flaremesh.provision.values import Image, NetworkPolicy, Objects, PodSecurity, Storage, Values
from flaremesh.topology.schema import DnsLabel, Port

PROMETHEUS_IMAGE = "prom/prometheus:v3.16.0"
# from 13.2 on the Prometheus data source is a plugin beside Grafana
GRAFANA_IMAGE = "grafana/grafana:13.1.4"

_NOBODY = 65534
_GRAFANA = 472


class Volume(Storage):
    """Where the data is."""

    enabled: bool = Field(False, description="a volume claim holds the data; off: it goes with the pod")


class Workload(Values):
    """What Prometheus and Grafana have in common."""

    enabled: bool = Field(True, description="install it")
    image: Image = Field(description="the image")
    storage: Volume = Field(description="its data")
    network_policy: NetworkPolicy = Field(NetworkPolicy(), description="who may talk to whom")
    pod_security: PodSecurity = Field(description="the user of the pod")
    resources: dict[str, Any] = Field(
        {"requests": {"memory": "128Mi"}, "limits": {"memory": "2Gi"}},
        description="requests and limits of the container; limits: {memory: null} takes the limit away",
    )
    node_selector: dict[str, str] = Field({}, description="labels of nodes that may run the pod")
    tolerations: Objects = Field((), description="taints that the pod tolerates")
    affinity: dict[str, Any] = Field({}, description="affinity of the pod")
    priority_class_name: str = Field("", description="priority class of the pod")
    pod_annotations: dict[str, str] = Field({}, description="further annotations of the pod")
    pod_labels: dict[str, str] = Field({}, description="further labels of the pod")


class Prometheus(Workload):
    """The Prometheus that the chart installs."""

    interval: Annotated[str, Field(pattern=r"^\d+(ms|s|m)$")] = Field(
        "5s", description="time between two scrapes, and between two evaluations of the rules"
    )
    retention: Annotated[str, Field(pattern=r"^\d+[hdwy]$")] = Field(
        "30d", description="age of the oldest data"
    )
    retention_size: Annotated[str, Field(pattern=r"^(\d+[KMGT]B)?$")] = Field(
        "7GB", description="most data: less than its storage holds; empty: no limit"
    )
    alertmanagers: tuple[str, ...] = Field(
        (),
        description="addresses that get the alerts, e.g. [alertmanager.monitoring.svc:9093]; "
        "networkPolicy.extraEgress must let them through",
    )
    api_ports: tuple[Port, ...] = Field(
        (443, 6443), description="ports of the cluster's API, where it finds the participants' pods"
    )


class Grafana(Workload):
    """The Grafana that the chart installs."""

    existing_secret: str = Field(
        "",
        description="Secret with the key admin-password; without one the chart makes a Secret and a password",
    )
    anonymous_viewer: bool = Field(False, description="whoever reaches it may look without a password")
    prometheus_url: str = Field(
        "",
        description="another Prometheus than the chart's, e.g. http://prometheus.monitoring.svc:9090; "
        "networkPolicy.extraEgress must let it through",
    )


class Alert(Values):
    """What an admin changes of an alert."""

    enabled: bool = Field(True, description="off: there is no such alert")
    severity: Literal["", "critical", "warning", "info"] = Field("", description="instead of the file's")
    held: Annotated[str, Field(pattern=r"^(\d+[smhd])*$")] = Field(
        "", alias="for", description="how long it must hold before it fires, instead of the file's"
    )


class Rules(Values):
    """The recording rules and alerts, for whichever Prometheus."""

    alerts: dict[str, Alert] = Field(
        {},
        description="by name, what to change of alerts, e.g. FlareMeshSlowNeighbor: {enabled: false}; "
        "severity and for take other values than the file's",
    )
    runbooks: str = Field(
        "docs/runbooks.md",
        description="where the alerts' links find the runbooks: the address of your copy of that page",
    )


class Operator(Values):
    """For clusters with the Prometheus Operator."""

    enabled: bool = Field(False, description="make a PodMonitor and a PrometheusRule")
    labels: dict[str, str] = Field(
        {},
        description="their labels, by which a Prometheus chooses them, e.g. release: kube-prometheus-stack",
    )
    interval: str = Field("", description="time between two scrapes; empty takes the Prometheus' own")


class ConfigMaps(Values):
    """For a Grafana with a sidecar that looks for dashboards."""

    enabled: bool = Field(False, description="make the dashboards' ConfigMaps for it")
    labels: dict[str, str] = Field({"grafana_dashboard": "1"}, description="labels that it looks for")
    annotations: dict[str, str] = Field({}, description="annotations, e.g. grafana_folder: flaremesh")


class Dashboards(Values):
    """The dashboards where the chart installs no Grafana."""

    config_maps: ConfigMaps = Field(ConfigMaps(), description="for a Grafana that the cluster has")


class MonitoringValues(Values):
    """Values of the chart flaremesh-monitoring."""

    meshes: Annotated[tuple[DnsLabel, ...], Field(min_length=1)] = Field(
        (), description="names of the meshes that are watched"
    )
    namespaces: Annotated[tuple[DnsLabel, ...], Field(min_length=1)] = Field(
        (), description="namespaces of this cluster in which their participants run; they must exist"
    )
    image_pull_secrets: Objects = Field((), description="secrets for the registry: [{name: ...}]")
    prometheus: Prometheus = Field(
        Prometheus(
            image=Image.of(PROMETHEUS_IMAGE),
            storage=Volume(size="8Gi", enabled=True),
            pod_security=PodSecurity(user=_NOBODY, group=_NOBODY),
        ),
        description="a Prometheus that finds the participants by itself",
    )
    grafana: Grafana = Field(
        Grafana(
            image=Image.of(GRAFANA_IMAGE),
            storage=Volume(size="1Gi"),
            pod_security=PodSecurity(user=_GRAFANA, group=_GRAFANA),
        ),
        description="a Grafana with the dashboards",
    )
    rules: Rules = Field(Rules(), description="the alerts")
    operator: Operator = Field(Operator(), description="where the cluster has the Prometheus Operator")
    dashboards: Dashboards = Field(Dashboards(), description="where the cluster has a Grafana")
