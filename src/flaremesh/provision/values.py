"""The values of the charts: what provisioning fills in, and what a participant's admin may add.

These models are the one source of the charts' ``values.yaml``, ``values.schema.json`` and ``README.md``.
"""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from flaremesh import __version__
from flaremesh.metrics.ask import PORT
from flaremesh.p2p.gate.policy import Policy
from flaremesh.topology.schema import Closed, DnsLabel, Port

Quantity: TypeAlias = Annotated[str, Field(pattern=r"^\d+(\.\d+)?([EPTGMk]i?|m)?$")]
"""Kubernetes quantity, e.g. 64Mi."""

Objects: TypeAlias = tuple[dict[str, Any], ...]
"""Kubernetes objects that the chart passes on as they are."""


class Values(Closed):
    """Values of a chart: their keys are in camelCase in files, and as Python writes names in Python."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)


class Image(Values):
    """Where the image comes from."""

    repository: str = Field("flaremesh", description="registry and name of the image")
    tag: str = Field(__version__, description="tag; ignored where there is a digest")
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = Field(
        "", description="sha256:... pins the image's content"
    )
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="IfNotPresent, Always or Never"
    )

    @classmethod
    def of(cls, name: str) -> Self:
        """The image that a name such as ``registry:5000/flaremesh:1.0@sha256:...`` stands for."""
        rest, _, digest = name.partition("@")
        repository, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:  # the colon is that of the registry's port
            repository, tag = rest, "latest"
        return cls(repository=repository, tag=tag, digest=digest)

    @property
    def name(self) -> str:
        """What a container engine calls it; a digest takes the place of the tag."""
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


class Kit(Values):
    """The startup kit: certificate, private key, and whom to dial."""

    existing_secret: str = Field(
        "", description="Secret with the files of the kit's folder startup; the chart then makes none"
    )
    startup: dict[str, str] = Field(
        {}, description="these files, by name, where the chart makes the Secret: kit.yaml holds them"
    )
    local: dict[str, str] = Field({}, description="files of the kit's folder local, by name; nothing secret")


class Peer(Values):
    """Another participant, as NetworkPolicies see it."""

    name: str = Field(description="the participant")
    namespace: str = Field("", description="its namespace, where it runs in the same cluster")
    cidrs: tuple[str, ...] = Field((), description="its addresses, where it may run in another cluster")


class DialledPeer(Peer):
    """A participant that this one opens connections to."""

    first_port: Port = Field(description="lowest port")
    last_port: Port = Field(description="highest port")


class Service(Values):
    """How participants outside the cluster reach this one."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        "ClusterIP",
        description="ClusterIP: from inside the cluster only. NodePort: at the same ports of every node, "
        "in the cluster's range for node ports. LoadBalancer: at the address of one",
    )
    annotations: dict[str, str] = Field({}, description="annotations, e.g. of the cloud's load balancer")
    load_balancer_source_ranges: tuple[str, ...] = Field((), description="who may use the load balancer")


class Storage(Values):
    """The volume of the workspace: runs, their results, and the server's jobs."""

    size: Quantity = Field("2Gi", description="size of the volume")
    class_name: str = Field("", description="storage class; empty takes the cluster's default")
    existing_claim: str = Field("", description="use this claim; the chart then makes none")


class Memory(Values):
    """Folders in memory; they count as the pod's memory."""

    tmp: Quantity = Field("256Mi", description="size limit of /tmp")
    shm: Quantity = Field("64Mi", description="size limit of /dev/shm, which torch's data loaders need")
    metrics: Quantity = Field("64Mi", description="size limit of the folder with the runs' metrics")


class Metrics(Values):
    """Who may scrape the metrics, which are on the port of the probes."""

    port: Port = Field(PORT, description="port of metrics and probes")
    scraper_namespace: str = Field("", description="namespace of the scraper; empty admits none")
    scraper_labels: dict[str, str] = Field({}, description="labels of its pods; none means all of them")


class Dns(Values):
    """The cluster's name servers: pods, and addresses of those that no selector finds."""

    namespace: str = Field("kube-system", description="its namespace")
    labels: dict[str, str] = Field(
        {"k8s-app": "kube-dns"}, description="labels of its pods; null takes a label away"
    )
    cidrs: tuple[str, ...] = Field(
        ("169.254.20.10/32",),
        description="addresses of name servers on the node, which no label finds: NodeLocal DNSCache has "
        "this one, and may take over the cluster IP of kube-dns besides; GKE's Cloud DNS has "
        "169.254.169.254/32",
    )


class NetworkPolicy(Values):
    """Nothing may reach the pod and the pod reaches nothing, except what the topology's edges need."""

    enabled: bool = Field(True, description="make the policies; off only where another tool does")
    dns: Dns = Field(Dns(), description="the pod may ask it")
    extra_ingress: Objects = Field((), description="further NetworkPolicyIngressRules")
    extra_egress: Objects = Field((), description="further NetworkPolicyEgressRules, e.g. to a data store")


class PodSecurity(Values):
    """The user of the pod. All else is what the restricted Pod Security Standard asks for."""

    user: Annotated[int, Field(ge=1)] = Field(10001, description="numeric user")
    group: Annotated[int, Field(ge=1)] = Field(10001, description="numeric group, which owns the volumes")


class PodDisruptionBudget(Values):
    """Drains of the node wait for a human."""

    enabled: bool = Field(
        False, description="one pod cannot be moved without a break: this holds up every drain of its node"
    )


class Probes(Values):
    """How long Kubernetes waits for the agent."""

    startup_seconds: Annotated[int, Field(ge=10)] = Field(120, description="until it must answer at first")
    liveness_seconds: Annotated[int, Field(ge=10)] = Field(60, description="of silence until a restart")


class Participant(Values):
    """What both charts have."""

    name: DnsLabel = Field(description="the participant, as in the topology file; the kit must be its own")
    mesh: DnsLabel = Field(description="name of the mesh")
    image: Image = Field(Image(), description="the image")
    image_pull_secrets: Objects = Field((), description="secrets for the registry: [{name: ...}]")
    kit: Kit = Field(Kit(), description="the startup kit")
    service: Service = Field(Service(), description="access from outside the cluster")
    storage: Storage = Field(Storage(), description="the workspace's volume")
    memory: Memory = Field(Memory(), description="folders in memory")
    metrics: Metrics = Field(Metrics(), description="metrics")
    network_policy: NetworkPolicy = Field(NetworkPolicy(), description="who may talk to whom")
    pod_security: PodSecurity = Field(PodSecurity(), description="the user of the pod")
    pod_disruption_budget: PodDisruptionBudget = Field(PodDisruptionBudget(), description="drains")
    probes: Probes = Field(Probes(), description="patience of the probes")
    resources: dict[str, Any] = Field(
        {"requests": {"memory": "512Mi"}, "limits": {"memory": "4Gi"}},
        description="requests and limits of the container; a run needs 0.5 GiB and ten times its model. "
        "limits: {memory: null} takes the limit away",
    )
    runtime_class_name: str = Field("", description="runtime class of the pod, e.g. nvidia")
    node_selector: dict[str, str] = Field({}, description="labels of nodes that may run the pod")
    tolerations: Objects = Field((), description="taints that the pod tolerates")
    affinity: dict[str, Any] = Field({}, description="affinity of the pod")
    topology_spread_constraints: Objects = Field((), description="spread of the pods of several releases")
    priority_class_name: str = Field("", description="priority class of the pod")
    pod_annotations: dict[str, str] = Field({}, description="further annotations of the pod")
    pod_labels: dict[str, str] = Field({}, description="further labels of the pod")
    extra_env: Objects = Field((), description="further environment variables: [{name: ..., value: ...}]")
    extra_volumes: Objects = Field((), description="further volumes, e.g. with a site's data")
    extra_volume_mounts: Objects = Field((), description="where the container mounts them")


class ServerValues(Participant):
    """Values of the chart flaremesh-server."""

    port: Port = Field(8002, description="the server's port")
    meet_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="port of the meeting point, a process beside the server; 0: there is none"
    )
    sites: tuple[Peer, ...] = Field((), description="the sites, which dial the server and the meeting point")
    admin_labels: dict[str, str] = Field(
        {"app.kubernetes.io/component": "admin"},
        description="pods of the server's namespace with these labels may dial it too, to submit runs; "
        "null takes a label away",
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=45)] = Field(
        60, description="the server aborts its runs and tells the sites, which takes up to 40 s"
    )


class Link(Values):
    """Direct links."""

    first_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="lowest port of the site's range; 0: nobody dials this site"
    )
    last_port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="highest port of the range")
    from_: tuple[Peer, ...] = Field((), alias="from", description="in-neighbours, which dial this site")
    to: tuple[DialledPeer, ...] = Field((), description="out-neighbours, which this site dials")


class Gpus(Values):
    """GPUs of the site."""

    count: Annotated[int, Field(ge=0)] = Field(0, description="how many; the pod does not start without them")
    resource: str = Field("nvidia.com/gpu", description="their name as a resource of the node")


class SiteMetrics(Metrics):
    """Who may scrape the metrics, and whether the server may show them."""

    share: bool = Field(
        True, description="send the server those that the kit lists; false: none leaves the site"
    )


class SiteValues(Participant):
    """Values of the chart flaremesh-site."""

    metrics: SiteMetrics = Field(SiteMetrics(), description="metrics")
    server: DialledPeer = Field(
        DialledPeer(name="server", first_port=8002, last_port=8002), description="the mesh's server"
    )
    meet: tuple[DialledPeer, ...] = Field(
        (), description="the meeting point, which this site dials, where there is one"
    )
    link: Link = Field(Link(), description="direct links")
    policy: Policy | None = Field(
        None, description="what the site lets in, as docs/site-policy.md says: the content of a policy.yaml"
    )
    gpus: Gpus = Field(Gpus(), description="GPUs")
    termination_grace_period_seconds: Annotated[int, Field(ge=30)] = Field(
        45, description="the site aborts its runs and logs out, which takes up to 25 s"
    )
