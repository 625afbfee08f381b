"""Which carriers there are: a further one is a package of its own and a line in `assemble`."""

from collections.abc import Sequence

from flaremesh.links.carrier import Carrier, Edges
from flaremesh.links.credentials import Credentials
from flaremesh.links.direct import DirectCarrier, Listen
from flaremesh.links.inbox import Inbox
from flaremesh.links.life import Tolerance
from flaremesh.links.link import Cancelled, LinkObserver, Refusal
from flaremesh.links.relay import RelayCarrier, Transport
from flaremesh.links.routed import RoutedLink
from flaremesh.topology.links import LinkMode
from flaremesh.topology.neighborhood import Neighborhood


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
) -> RoutedLink:
    """One site's link for one run, not open yet.

    Args:
        run_id: the run.
        schedule: the site's neighbourhood in each phase.
        mode: which carriers are allowed.
        observer: hears of traffic and refusals.
        cancelled: polled while waiting.
        transport: from site to site through the server.
        credentials: of the site in this run; None in NVFlare's simulator, which has no kits.
        listen: where in-neighbours dial; None if they cannot.
        tolerance: of neighbours that are late; None where the run ends with its first loss.

    Raises:
        LinkError: no port is free, or the certificate cannot be used.
    """
    sources = frozenset(peer for hood in schedule for peer in hood.in_weights)
    targets = frozenset(peer for hood in schedule for peer in hood.out)
    if tolerance is not None and mode != "direct":
        # the relay carries what is cut, and tells who lives
        tolerance = tolerance._replace(redial=0, unheard=tolerance.redial)
    inbox = Inbox(cancelled)
    edges = Edges(schedule[0].site, run_id, sources, targets, inbox, observer, tolerance=tolerance)
    carriers: list[Carrier] = []  # the best one first
    if mode != "relay" and credentials is not None:
        carriers.append(DirectCarrier(edges, credentials, listen))
    if mode == "direct":
        transport.listen(lambda sender, _: observer.refused(sender, Refusal.CARRIER))
    else:
        carriers.append(RelayCarrier(edges, transport, credentials))
    return RoutedLink(edges, carriers)
