"""The objects of releases, as the cluster's API shows them: StatefulSets, pods, events, secrets."""

import contextlib
from base64 import b64decode
from collections.abc import Callable, Iterable
from typing import TypeVar

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from flaremesh.deploy.targets.base import DeployError
from flaremesh.printable import printable
from flaremesh.provision.releases import Release

T = TypeVar("T")

_API_SECONDS = 10.0
_FATAL = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CrashLoopBackOff"}
_POD_SECURITY = {"pod-security.kubernetes.io/enforce": "restricted"}


class Cluster:
    """The cluster of the current context.

    Every method that asks for one object raises DeployError where the cluster does not show it to this user.

    Raises:
        DeployError: there is no cluster, or it does not answer.
    """

    def __init__(self) -> None:
        try:
            config.load_kube_config()
            self._core, self._apps = client.CoreV1Api(), client.AppsV1Api()
            client.VersionApi().get_code(_request_timeout=_API_SECONDS)  # every user may ask for the version
        except (ConfigException, ApiException, HTTPError) as error:
            raise DeployError(
                f"no Kubernetes cluster answers in the current context: {error}. "
                "`kubectl get nodes` must work; `kubectl config use-context` chooses a cluster."
            ) from None

    def make_namespace(self, name: str) -> None:
        """Make a namespace unless it exists; a new one takes restricted pods only.

        Raises:
            DeployError: it cannot be made.
        """
        body = client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels=_POD_SECURITY))
        try:
            self._core.create_namespace(body)
        except ApiException as error:
            if error.status != 409:  # it exists
                raise DeployError(f"the namespace {name} cannot be made: {error.reason}") from None

    def stateful_set(self, release: Release) -> client.V1StatefulSet | None:
        """The StatefulSet of a release, None where it has none."""
        return _if_there(release, self._apps.read_namespaced_stateful_set, release.name)

    def pod(self, release: Release) -> client.V1Pod | None:
        """The pod of a release, None where it has none."""
        return _if_there(release, self._core.read_namespaced_pod, f"{release.name}-0")

    def is_rolled_out(self, release: Release) -> bool:
        """Whether a release's pod is ready, and the one that the release asks for now."""
        found = self.stateful_set(release)
        return found is not None and is_rolled_out(found)

    def trouble(self, release: Release) -> str | None:
        """What keeps a release's pod from starting and will not pass by itself."""
        pod, stateful_set = self.pod(release), self.stateful_set(release)
        if not (pod and stateful_set and _is_of(pod, stateful_set)):
            return None
        for status in pod.status.container_statuses or []:
            waiting, last = status.state.waiting, status.last_state.terminated
            if last and last.message and waiting:
                return printable(last.message)
            if waiting and waiting.reason in _FATAL:
                return printable(f"{waiting.reason}: {waiting.message}")
        return None

    def last_event(self, release: Release) -> str | None:
        """The last warning about a release's objects; where this user may list none, that."""
        name = release.name
        try:
            events = self._core.list_namespaced_event(
                release.namespace, field_selector="type=Warning", _request_timeout=_API_SECONDS
            ).items
        except (ApiException, HTTPError) as error:
            return f"its events cannot be listed: {_why(error)}"
        own = [e for e in events if e.involved_object.name in (name, f"{name}-0", f"workspace-{name}-0")]
        return printable(own[-1].message) if own else None

    def stateful_sets_in(self, namespace: str, label: str) -> list[client.V1StatefulSet]:
        """The StatefulSets of a namespace with a label.

        Raises:
            DeployError: this user may not list them, or the cluster does not answer.
        """
        try:
            found = self._apps.list_namespaced_stateful_set(
                namespace, label_selector=label, _request_timeout=_API_SECONDS
            )
        except (ApiException, HTTPError) as error:
            raise DeployError(
                f"the StatefulSets of the namespace {namespace} cannot be listed: {_why(error)}"
            ) from None
        return list(found.items)

    def stateful_sets(self, label: str, namespaces: Iterable[str]) -> list[client.V1StatefulSet]:
        """The StatefulSets with a label in all namespaces, or in these where that is forbidden."""
        options = {"label_selector": label, "_request_timeout": _API_SECONDS}
        with contextlib.suppress(ApiException, HTTPError):
            return list(self._apps.list_stateful_set_for_all_namespaces(**options).items)
        found: list[client.V1StatefulSet] = []
        for namespace in namespaces:
            with contextlib.suppress(ApiException, HTTPError):
                found += self._apps.list_namespaced_stateful_set(namespace, **options).items
        return found

    def secret(self, release: Release, name: str, key: str) -> bytes | None:
        """An entry of a secret of a release, None where it is not there."""
        found = _if_there(release, self._core.read_namespaced_secret, name)
        return b64decode((found.data or {}).get(key, "")) if found else None


def is_rolled_out(found: client.V1StatefulSet) -> bool:
    """Whether its pod is ready, and the one that the release asks for now."""
    status = found.status
    return _is_observed(found) and bool(
        status.current_revision == status.update_revision and status.ready_replicas
    )


def _is_of(pod: client.V1Pod, found: client.V1StatefulSet) -> bool:
    """Whether the pod is what the release asks for now, not what an upgrade is about to replace."""
    revision = pod.metadata.labels.get("controller-revision-hash")
    return _is_observed(found) and bool(revision == found.status.update_revision)


def _is_observed(found: client.V1StatefulSet) -> bool:
    """Whether its status is about what the release asks for now; a new one has none yet."""
    return bool((found.status.observed_generation or 0) >= found.metadata.generation)


def _if_there(release: Release, read: Callable[..., T], name: str) -> T | None:
    """An object as the cluster shows it, None where there is none."""
    try:
        return read(name, release.namespace, _request_timeout=_API_SECONDS)
    except (ApiException, HTTPError) as error:
        if isinstance(error, ApiException) and error.status == 404:
            return None
        raise DeployError(f"{release.name}: the cluster does not tell of it: {_why(error)}") from None


def _why(error: Exception) -> str:
    return printable(error.reason if isinstance(error, ApiException) else error)
