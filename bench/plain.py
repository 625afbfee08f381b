"""One site of flaremesh in a plain process: its loop, its direct links and its metrics, without NVFlare.

NVFlare's controller tells the sites each other's addresses; here the barrier does.
"""

from collections.abc import Collection, Sequence
from typing import Any

from bench.jobs.vector import Vector
from bench.meter import Meter
from bench.processes import Round, Site
from flaremesh.algorithms import create
from flaremesh.links import Key, LinkError, Payload
from flaremesh.links.direct import DirectLink
from flaremesh.links.inbox import Inbox
from flaremesh.links.protocol import FLUSH_SECONDS
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.prometheus import PrometheusSink
from flaremesh.metrics.sink import Fanout
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.history import History
from flaremesh.runtime.site_run import RunOptions, SiteRun

_TIMEOUT = 60.0
_ANY_PORT = ("127.0.0.1", (0, 0))


def run(site: Site) -> list[dict[str, Any]]:
    return [_iterate(site, number, each) for number, each in enumerate(site.rounds)]


def _iterate(site: Site, number: int, each: Round) -> dict[str, Any]:
    meter = Meter(each.warm_up, each.iterations)
    name, run_id = site.hood.site, f"round {number}"
    iterations = each.warm_up + each.iterations
    traffic = TrafficCounter({*site.hood.in_weights, *site.hood.out})
    metrics = PrometheusSink(run_id, "consensus", "ring", iterations, [site.hood], traffic)
    link = _Link(site, run_id, traffic)
    problem = Vector(SiteContext(name, site.sites.index(name), len(site.sites), 0), each.floats)
    with History(site.scratch / f"{name}.jsonl") as history:
        run = SiteRun(
            create("consensus"),
            problem,
            [site.hood],
            link,
            Fanout(history, metrics),
            RunOptions(iterations, _TIMEOUT),
        )
        link.open(site)
        meter.tick()
        for iteration in range(iterations):
            run.iterate(iteration)
            meter.tick()
    figures = meter.figures()
    link.close()
    return figures


class _Link:
    """What RoutedLink does while all edges are direct."""

    def __init__(self, site: Site, run_id: str, observer: TrafficCounter):
        self._inbox = Inbox(lambda: False)
        self._direct = DirectLink(
            site.hood.site,
            run_id,
            tuple(site.hood.in_weights),
            site.credentials,
            observer,
            self._inbox,
            lambda peer, cause, _: self._inbox.fail(LinkError(f"lost {peer}: {cause}")),
            _ANY_PORT,
        )

    def open(self, site: Site) -> None:
        addresses = site.gather(self._direct.address)
        causes = self._direct.dial({peer: addresses[peer] for peer in site.hood.out})
        if causes:
            raise LinkError(f"{site.hood.site} has no link: {causes}")
        site.gather()

    def send(self, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
        self._direct.send(peer, key, buffers)

    def receive(self, keys: Collection[Key], timeout: float) -> dict[Key, Payload]:
        self._direct.attend(keys)
        return self._inbox.take(keys, timeout)

    def close(self, *, patience: float = FLUSH_SECONDS) -> None:
        self._direct.close(patience=patience)
