"""The restricted Pod Security Standard, for pods that run Linux containers."""

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """What of a pod's spec the standard forbids."""
    pod = spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} of type {kind}"
    if pod.get("sysctls"):
        yield "sysctls"
    yield from _of_both(pod, "pod")
    for container in _containers(spec):
        name, own = container["name"], container.get("securityContext", {})
        effective = pod | own
        if effective.get("runAsNonRoot") is not True:
            yield f"{name} may run as root"
        if effective.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name} has no seccomp profile"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may escalate privileges"
        if own.get("privileged"):
            yield f"{name} is privileged"
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []):
            yield f"{name} keeps capabilities"
        if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{name} adds capabilities"
        if own.get("procMount", "Default") != "Default":
            yield f"{name} has an unmasked /proc"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name} has a port of the host"
        yield from _of_both(own, name)


def _of_both(context: dict[str, Any], where: str) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield f"{where} runs as user 0"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("user") or selinux.get("role") or selinux.get("type", "") not in _SELINUX_TYPES:
        yield f"{where} has SELinux options"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
        yield f"{where} has no AppArmor profile"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{where} is a process of a Windows host"


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [c for kind in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(kind, [])]
