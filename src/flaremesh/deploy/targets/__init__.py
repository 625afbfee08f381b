"""The targets there are."""

from enum import StrEnum
from pathlib import Path

from flaremesh.deploy.targets.base import Target
from flaremesh.topology.schema import Topology


class TargetKind(StrEnum):
    """Where a mesh may run."""

    LOCAL = "local"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


def target_of(kind: TargetKind, topology: Topology, mesh: Path) -> Target:
    """The target of a mesh.

    Args:
        kind: which one.
        topology: the mesh.
        mesh: its folder.
    """
    match kind:
        case TargetKind.LOCAL:
            from flaremesh.deploy.targets.local import LocalTarget

            return LocalTarget(topology, mesh)
        case TargetKind.DOCKER:
            from flaremesh.deploy.targets.docker.target import DockerTarget

            return DockerTarget(topology, mesh)
        case TargetKind.KUBERNETES:
            from flaremesh.deploy.targets.kubernetes.target import KubernetesTarget

            return KubernetesTarget(topology, mesh)
