"""A mesh on one machine whose participants have networks of their own."""

from collections.abc import Mapping
from pathlib import Path

import psutil
from typing_extensions import override

from bench.processes import Place
from bench.wan.namespaces import entered
from flaremesh.deploy.targets.local import LocalTarget
from flaremesh.topology.schema import Topology


class PlacedTarget(LocalTarget):
    """Starts and asks every participant in its place.

    Args:
        topology, mesh: as of LocalTarget.
        places: by name.
    """

    def __init__(self, topology: Topology, mesh: Path, places: Mapping[str, Place]):
        super().__init__(topology, mesh)
        self._places = places

    @override
    def _start(self, name: str) -> psutil.Process:
        with entered(str(self._places[name].namespace)):
            return super()._start(name)

    @override
    def ask(self, participant: str, path: str) -> bytes | None:
        # an agent answers on the loopback of its own network
        with entered(str(self._places[participant].namespace)):
            return super().ask(participant, path)
