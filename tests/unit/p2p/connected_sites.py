"""Executors of several sites in one process, on relay links whose transport is a function call."""

import copy
from concurrent.futures import ThreadPoolExecutor

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from flaremesh.links.assemble import assemble
from flaremesh.links.traffic import TrafficCounter
from flaremesh.p2p.executors import BaseDistOptExecutor
from flaremesh.p2p.types import LocalConfig


class Sites:
    """The executors of a network, configured; ``posts`` are the frames, as (sender, peer, bytes)."""

    def __init__(self, folder, network, executors, **extra):
        self.executors, self.links, self.posts = executors, {}, []
        self.delivering = {}
        self.signal = Signal()
        tree = network.spanning_tree()
        for index, (site, schedule) in enumerate(network.schedules().items()):
            executor = executors[site]
            executor.client_name = site
            config = LocalConfig(
                copy.deepcopy(network.node(site).neighbors),
                extra,
                schedule,
                index,
                len(network.nodes),
                tree.get(site),
                [child for child, parent in tree.items() if parent == site],
            )
            BaseDistOptExecutor._configure(executor, config, FLContext(), self.signal)
            peers = {peer for hood in schedule for peer in (*hood.in_weights, *hood.out)}
            executor._flaremesh.linked = True
            executor._flaremesh.folder = folder / site
            executor._flaremesh.folder.mkdir(exist_ok=True)
            executor._flaremesh.link = self.links[site] = assemble(
                "run",
                schedule,
                "relay",
                observer=TrafficCounter(peers),
                cancelled=lambda: bool(self.signal.triggered),
                transport=_Transport(self, site),
                credentials=None,
                listen=None,
            )

        by_value = any(executor._wants_values() for executor in executors.values())
        for executor in executors.values():
            executor._flaremesh.by_value = by_value

    def deliver(self, peer, sender, data):
        """Bring ``data`` to ``peer``, as if ``sender`` had sent it."""
        self.delivering[peer](sender, data)

    def run(self, iterations, sites=None, **extra):
        """The reply of every site to run_algorithm."""
        task = DXO(DataKind.APP_DEFINED, data={"iterations": iterations} | extra).to_shareable()

        def execute(site):
            return self.executors[site].execute("run_algorithm", task, FLContext(), self.signal)

        sites = sites or list(self.executors)
        with ThreadPoolExecutor(len(sites)) as pool:
            return dict(zip(sites, pool.map(execute, sites), strict=True))


class _Transport:
    """From one site to the others, by function calls."""

    def __init__(self, sites, site):
        self._sites, self._site = sites, site

    def post(self, peer, data):
        self._sites.posts.append((self._site, peer, data))
        self._sites.deliver(peer, self._site, data)

    def listen(self, deliver):
        self._sites.delivering[self._site] = deliver
