"""The controller of nvflare.app_opt.p2p, timed."""

from nvflare.app_opt.p2p import controllers
from nvflare.app_opt.p2p.types import Config

from bench.jobs.clock import ClockedController


class Controller(ClockedController, controllers.DistOptController):
    """Takes the arguments of flaremesh's; a stock node has no weight of its own."""

    def __init__(self, config, labels):
        nodes = [{"id": node["id"], "neighbors": node["neighbors"]} for node in config["network"]["nodes"]]
        super().__init__(Config(network={"nodes": nodes}, extra=config["extra"]))
