"""Which carriers there are: a further one is a module of its own and a line in `assemble`."""

import logging
from collections.abc import Sequence

from flaremesh.links.carrier import Address, Carrier
from flaremesh.links.carriers.direct import DirectCarrier, Listen, bind
from flaremesh.links.carriers.met import Meeting, MetCarrier
from flaremesh.links.carriers.relay import RelayCarrier, Transport
from flaremesh.links.credentials import Credentials
from flaremesh.links.dialler import Dialler
from flaremesh.links.edges import Edges
from flaremesh.links.errors import LinkError
from flaremesh.links.frame import run_digest
from flaremesh.links.inbox import Inbox
from flaremesh.links.life import Tolerance
from flaremesh.links.link import Cancelled, LinkObserver, Refusal
from flaremesh.links.mesh_link import MeshLink
from flaremesh.links.pair import Pair
from flaremesh.links.reception import Reception
from flaremesh.topology.links import LinkKind, LinkMode
from flaremesh.topology.neighborhood import Neighborhood

_log = logging.getLogger(__name__)


def assemble(
    run_id: str,
    schedule: Sequence[Neighborhood],
    mode: LinkMode,
    *,
    observer: LinkObserver,
    cancelled: Cancelled,
    transport: Transport,
    credentials: Credentials | None,
    listen: Listen | None,
    tolerance: Tolerance | None = None,
    meeting: Meeting | None = None,
) -> MeshLink:
    """One site's link for one run, not open yet.

    Args:
        run_id: the run.
        schedule: the site's neighbourhood in each phase.
        mode: which carriers are allowed.
        observer: hears of traffic and refusals.
        cancelled: polled while waiting.
        transport: from site to site through the server.
        credentials: of the site in this run; None in NVFlare's simulator, which has no kits.
        listen: where neighbours dial; None if they cannot.
        tolerance: of neighbours that are late; None where the run ends with its first loss.
        meeting: where pairs meet that may; None where none do.

    Raises:
        LinkError: no port is free, or the certificate cannot be used.
    """
    site = schedule[0].site
    sources = frozenset(peer for hood in schedule for peer in hood.in_weights)
    targets = frozenset(peer for hood in schedule for peer in hood.out)
    if credentials is None:
        _log.warning("%s has no kit, as in NVFlare's simulator: nothing that it exchanges is sealed", site)
    edges = Edges(site, run_id, sources, targets, Inbox(cancelled), observer, tolerance=tolerance)
    run = run_digest(run_id)
    dialler = Dialler(site, run, credentials, observer.refused)
    pairs = {peer: Pair(edges, peer) for peer in sources | targets}
    reception = Reception(pairs, credentials, run, observer.refused)
    carriers: list[Carrier] = []  # the best one first
    link = MeshLink(edges, pairs, reception, carriers, dialler)
    for pair in pairs.values():
        pair.on_change(link.notice)
    try:
        if mode != "relay" and credentials is not None:
            carriers.append(DirectCarrier(_listen(reception, *listen) if listen else None, sources))
        if meeting is not None and credentials is not None:
            followed = [pair.peer for pair in pairs.values() if not pair.leads]

            def is_wanted(peer: str) -> bool:
                return not pairs[peer].is_over and pairs[peer].kind is not LinkKind.DIRECT

            carriers.append(
                MetCarrier(site, run_id, meeting, credentials, followed, reception.take, is_wanted)
            )
        if mode == "direct":
            transport.listen(lambda sender, _: observer.refused(sender, Refusal.CARRIER))
        else:
            carriers.append(RelayCarrier(transport, sources | targets, reception.take, observer.refused))
    except LinkError:
        link.close(patience=0)
        raise
    return link


def _listen(reception: Reception, host: str, ports: tuple[int, int]) -> Address:
    listening = bind(host, ports)
    reception.listen(listening)
    return host, int(listening.getsockname()[1])
