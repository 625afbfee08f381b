"""The targets there are."""

from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from flaremesh.class_path import class_at
from flaremesh.deploy.targets.base import Target
from flaremesh.topology.schema import Topology

LOCAL_WORKSPACES: Final = "local"
"""Folder of a mesh with the workspaces of its participants on the local target, each named as they are."""


class TargetKind(StrEnum):
    """Where a mesh may run: a word of the command line, and the class behind it.

    The class is imported when it is used: each brings a library that the others do without.
    """

    LOCAL = "local", "local.LocalTarget"
    DOCKER = "docker", "docker.target.DockerTarget"
    KUBERNETES = "kubernetes", "kubernetes.target.KubernetesTarget"

    class_path: str

    def __new__(cls, word: str, class_path: str) -> Self:
        """A member; its class stands in this package."""
        kind = str.__new__(cls, word)
        kind._value_ = word
        kind.class_path = class_path
        return kind


def target_of(kind: TargetKind, topology: Topology, mesh: Path) -> Target:
    """The target of a mesh.

    Args:
        kind: which one.
        topology: the mesh.
        mesh: its folder.
    """
    target: Target = class_at(f"{__name__}.{kind.class_path}")(topology, mesh)
    return target
