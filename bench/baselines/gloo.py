"""torch.distributed with its gloo backend: neither encrypted nor authenticated, all sites in one group."""

import os
from typing import Any

import torch
import torch.distributed as dist

from bench.meter import Meter
from bench.processes import Round, Site


def run(site: Site) -> list[dict[str, Any]]:
    os.environ["GLOO_SOCKET_IFNAME"] = site.place.interface
    store = dist.FileStore(  # type: ignore[attr-defined]  # torch documents it, and does not list it
        str(site.scratch / "gloo"), len(site.sites)
    )
    rank = site.sites.index(site.hood.site)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(site.sites))
    try:
        return [_iterate(site, each) for each in site.rounds]
    finally:
        site.gather()  # whoever leaves earlier breaks the connections of the others
        dist.destroy_process_group()


def _iterate(site: Site, each: Round) -> dict[str, Any]:
    meter = Meter(each.warm_up, each.iterations)
    x, mixed = torch.rand(each.floats), torch.empty(each.floats)
    ranks = {name: rank for rank, name in enumerate(site.sites)}
    edges = [(ranks[peer], torch.empty(each.floats), weight) for peer, weight in site.hood.in_weights.items()]
    targets = [ranks[peer] for peer in site.hood.out]
    site.gather()
    meter.tick()
    for _ in range(each.warm_up + each.iterations):
        arriving = [_begun(dist.irecv(vector, source)) for source, vector, _ in edges]
        leaving = [_begun(dist.isend(x, target)) for target in targets]
        torch.mul(x, site.hood.self_weight, out=mixed)
        for work, (_, vector, weight) in zip(arriving, edges, strict=True):
            work.wait()
            mixed.add_(vector, alpha=weight)
        for work in leaving:
            work.wait()
        x, mixed = mixed, x
        meter.tick()
    return meter.figures()


def _begun(work: dist.Work | None) -> dist.Work:
    assert work is not None, "every site is in the group"
    return work
