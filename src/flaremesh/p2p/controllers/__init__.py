"""Controllers: the server's part of a run."""

from flaremesh.p2p.controllers.dist_opt_controller import DistOptController

__all__ = ["DistOptController"]
