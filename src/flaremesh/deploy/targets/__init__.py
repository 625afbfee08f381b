"""The targets there are."""

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Self

from flaremesh.deploy.targets.base import Target
from flaremesh.topology.schema import Topology


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
    module, _, name = kind.class_path.rpartition(".")
    target: Target = getattr(import_module(f"{__name__}.{module}"), name)(topology, mesh)
    return target
