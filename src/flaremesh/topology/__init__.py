"""The topology file, and the weighted graph that it describes; knows neither torch nor NVFlare."""

from flaremesh.topology.findings import Finding, TopologyError
from flaremesh.topology.load import load
from flaremesh.topology.mesh import Mesh, build
from flaremesh.topology.neighborhood import Neighborhood, neighborhoods
from flaremesh.topology.schema import Topology

__all__ = ["Finding", "Mesh", "Neighborhood", "Topology", "TopologyError", "build", "load", "neighborhoods"]
