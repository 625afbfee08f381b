"""Executors of several sites in one process, on relay links whose transport is a function call."""

import copy
from concurrent.futures import ThreadPoolExecutor

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal

from flaremesh.links.assemble import assemble
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.prometheus import PrometheusSink
from flaremesh.p2p.executors import BaseDistOptExecutor
from flaremesh.p2p.executors.member import Member
from flaremesh.p2p.progress import ProgressReporter
from flaremesh.p2p.types import LocalConfig

_OPEN_SECONDS = 20


class Sites:
    """The executors of a network, configured; ``posts`` is what was relayed, as (sender, peer, bytes)."""

    def __init__(self, folder, network, executors, opened=True, **extra):
        self.executors, self.links, self.posts = executors, {}, []
        self.delivering, self.members = {}, {}
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
            (folder / site).mkdir(exist_ok=True)
            traffic = TrafficCounter(peers)
            self.links[site] = assemble(
                "run",
                schedule,
                "relay",
                observer=traffic,
                cancelled=self._aborted,
                transport=_Transport(self, site),
                credentials=None,
                listen=None,
            )
            executor._flaremesh.joined = self.members[site] = _Member(
                folder / site,
                False,
                self.links[site],
                traffic,
                PrometheusSink("run", "any", "any", 0, schedule, traffic),
                ProgressReporter(lambda data: None, traffic.links, self._aborted),
            )

        if opened:
            with ThreadPoolExecutor(len(self.links)) as pool:
                list(pool.map(lambda link: link.open({}, _OPEN_SECONDS), self.links.values()))
        by_value = any(executor._wants_values() for executor in executors.values())
        for executor in executors.values():
            executor._flaremesh.by_value = by_value

    def close(self):
        """End what the sites have left for the tests to look at."""
        self.signal.trigger(True)
        for site, link in self.links.items():
            link.close()
            self.members[site].progress.stop()

    def _aborted(self):
        return bool(self.signal.triggered)

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


class _Member(Member):
    """Keeps its link open at the end, for tests to look at."""

    def enter(self, state, patience):
        self.metrics.state(state)


class _Transport:
    """From one site to the others, by function calls."""

    def __init__(self, sites, site):
        self._sites, self._site = sites, site

    def post(self, peer, data):
        self._sites.posts.append((self._site, peer, data))
        self._sites.deliver(peer, self._site, data)

    def listen(self, deliver):
        self._sites.delivering[self._site] = deliver
