"""One site of flaremesh in a plain process: its loop, its direct links and its metrics, without NVFlare.

NVFlare's controller tells the sites each other's addresses; here the barrier does.
"""

from typing import Any

from bench.jobs.vector import Vector
from bench.meter import Meter
from bench.processes import Round, Site
from flaremesh.algorithms import create
from flaremesh.links.edges import Edges
from flaremesh.links.direct import DirectCarrier
from flaremesh.links.inbox import Inbox
from flaremesh.links.mesh_link import MeshLink
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
    edges = Edges(
        name, run_id, frozenset(site.hood.in_weights), frozenset(site.hood.out), Inbox(lambda: False), traffic
    )
    link = MeshLink(edges, [DirectCarrier(edges, site.credentials, _ANY_PORT)])
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
        link.open(site.gather(link.address), _TIMEOUT)
        site.gather()
        meter.tick()
        for iteration in range(iterations):
            run.iterate(iteration)
            meter.tick()
    figures = meter.figures()
    link.close()
    return figures
