"""One site of flaremesh in a plain process: its loop, its direct links and its metrics, without NVFlare.

NVFlare's controller tells the sites each other's addresses; here the barrier does.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from bench.jobs.vector import Vector
from bench.meter import Meter
from bench.processes import Round, Site
from flaremesh.algorithms import create
from flaremesh.gossip.encodings import message_bytes
from flaremesh.links.assemble import assemble
from flaremesh.links.link import Payload
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.prometheus import PrometheusSink
from flaremesh.metrics.sink import Fanout
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.history import History
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.site_run import SiteRun
from flaremesh.topology.schema import Wire

_TIMEOUT = 60.0
_ANY_PORT = (0, 0)


class _NoServer:
    """The transport of sites that have no server."""

    def post(self, peer: str, data: bytes) -> None:
        raise AssertionError("direct links send nothing through a server")

    def listen(self, deliver: Callable[[str, Payload], None]) -> None:
        """Nothing comes."""


def run(site: Site) -> list[dict[str, Any]]:
    return [_iterate(site, number, each) for number, each in enumerate(site.rounds)]


def _iterate(site: Site, number: int, each: Round) -> dict[str, Any]:
    meter = Meter(each.warm_up, each.iterations)
    name, run_id = site.hood.site, f"round {number}"
    iterations = each.warm_up + each.iterations
    traffic = TrafficCounter({*site.hood.in_weights, *site.hood.out})
    metrics = PrometheusSink(run_id, "consensus", "ring", iterations, [site.hood], traffic)
    link = assemble(
        run_id,
        [site.hood],
        "direct",
        observer=traffic,
        cancelled=lambda: False,
        transport=_NoServer(),
        credentials=site.credentials,
        listen=(site.place.host, _ANY_PORT),
    )
    wire = Wire.of(each.wire)
    problem = Vector(SiteContext(name, site.sites.index(name), len(site.sites), 0), each.floats)
    with History(site.scratch / f"{name}.jsonl") as history:
        run = SiteRun(
            create("consensus"),
            problem,
            [site.hood],
            link,
            Fanout(history, metrics),
            RunOptions(iterations, _TIMEOUT, wire=wire),
        )
        link.open(site.gather(link.address), _TIMEOUT)
        site.gather()
        meter.tick()
        for iteration in range(iterations):
            run.iterate(iteration)
            meter.tick()
    figures = meter.figures() | {
        "parts": [asdict(record) for record in history.iterations[each.warm_up :]],
        "message_bytes": message_bytes(wire, [problem.initial()]),
    }
    link.close()
    return figures
