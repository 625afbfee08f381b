"""Which carriers there are: a further one is a module of its own and a line in `assemble`."""

import logging
from collections.abc import Collection, Mapping, Sequence

from flaremesh.links.attempts import Attempts
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
from flaremesh.topology.links import LinkKind, LinkMode, kinds_of
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
    allowed: Mapping[str, Collection[LinkKind]] | None = None,
) -> MeshLink:
    """One site's link for one run, not open yet.

    Args:
        run_id: the run.
        schedule: the site's neighbourhood in each phase.
        mode: what the run asks for.
        observer: hears of traffic and refusals.
        cancelled: polled while waiting.
        transport: from site to site through the server.
        credentials: of the site in this run; None in NVFlare's simulator, which has no kits.
        listen: where neighbours dial; None if they cannot.
        tolerance: of neighbours that are late; None where the run ends with its first loss.
        meeting: where pairs meet that may; None where none do.
        allowed: by which carriers each pair may travel; None: by all that the mode asks for.

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
    attempts = Attempts()
    dialler = Dialler(site, run, credentials, observer.refused, attempts)
    may = {
        peer: kinds_of(mode).intersection((allowed or {}).get(peer, LinkKind)) for peer in sources | targets
    }
    pairs = {peer: Pair(edges, peer, kinds) for peer, kinds in may.items()}

    def of(kind: LinkKind) -> frozenset[str]:
        return frozenset(peer for peer, kinds in may.items() if kind in kinds)

    reception = Reception(pairs, credentials, run, observer.refused)
    carriers: list[Carrier] = []  # the best one first
    link = MeshLink(edges, pairs, reception, carriers, dialler)
    for pair in pairs.values():
        pair.on_change(link.notice)
    try:
        if of(LinkKind.DIRECT) and credentials is not None:
            carriers.append(DirectCarrier(_listen(reception, *listen) if listen else None, sources, attempts))
        if meeting is not None and of(LinkKind.MET) and credentials is not None:
            followed = [peer for peer in of(LinkKind.MET) if not pairs[peer].leads]

            def is_wanted(peer: str) -> bool:
                return not pairs[peer].is_over and pairs[peer].kind is not LinkKind.DIRECT

            carriers.append(
                MetCarrier(site, run_id, meeting, credentials, followed, reception.take, is_wanted, attempts)
            )
        if of(LinkKind.RELAY):
            carriers.append(RelayCarrier(transport, of(LinkKind.RELAY), reception.take, observer.refused))
        else:
            transport.listen(lambda sender, _: observer.refused(sender, Refusal.CARRIER))
    except LinkError:
        link.close(patience=0)
        raise
    return link


def _listen(reception: Reception, host: str, ports: tuple[int, int]) -> Address:
    listening = bind(host, ports)
    reception.listen(listening)
    return host, int(listening.getsockname()[1])
