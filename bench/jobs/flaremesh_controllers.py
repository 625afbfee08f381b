"""flaremesh's controller, timed."""

from bench.jobs.clock import ClockedController
from flaremesh.p2p import controllers


class Controller(ClockedController, controllers.DistOptController):
    pass
