"""A carrier that a newcomer might write: one class that makes pairs of sockets; links over such carriers."""

import functools
import socket
import threading

from direct_mesh import edges_of, in_parallel

from flaremesh.links import LinkKind
from flaremesh.links.carrier import Carrier
from flaremesh.links.connector import Connector
from flaremesh.links.dialler import Dialler
from flaremesh.links.frame import run_digest
from flaremesh.links.mesh_link import MeshLink
from flaremesh.links.pair import Pair
from flaremesh.links.reception import Reception

RUN = run_digest("run")


class Patch(Carrier):
    """Patches two sites of a process together.

    Args:
        kind: under which it goes.
        site: whose carrier it is.
        exchange: the receptions of all sites.
        dials: whether this end dials.
        unable: why it does not carry to a peer, by peer.
    """

    def __init__(self, kind, site, exchange, *, dials=True, unable=()):
        self.kind, self._site, self._exchange = kind, site, exchange
        self._dials, self._unable = dials, dict(unable)
        self.is_up = True
        self.dialled, self.made, self.is_closed = 0, [], False
        self.dialling = threading.Condition()

    def open(self, addresses):
        self.addresses = addresses

    def inability(self, peer):
        return self._unable.get(peer)

    def head_start(self, peer, *, leads):
        return (0.0 if leads else 0.1) if self._dials else None

    def dial(self, peer, timeout):
        with self.dialling:
            self.dialled += 1
            self.dialling.notify_all()
        if not self.is_up or peer not in self._exchange:
            raise ConnectionRefusedError(f"{self.kind} is down")
        near, far = socket.socketpair()
        with self.dialling:  # a cut in between would forget it
            self.made.append(near.dup())
        self._exchange[peer].take(far, self.kind, self._site)
        return near

    def is_dialled(self, times, seconds=20):
        """Whether it comes to have been dialled so often."""
        with self.dialling:
            return self.dialling.wait_for(lambda: self.dialled >= times, seconds)

    def cut(self, *, for_good=False):
        """Break all streams that there are."""
        self.is_up = not for_good
        with self.dialling:
            made, self.made = self.made, []
        for each in made:
            each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self):
        self.is_closed = True
        for each in self.made:
            each.close()


class Site:
    """One site, and its end of everything."""

    def __init__(self, name, peers, exchange, kinds, *, dials=True, unable=(), **options):
        self.edges = edges_of(name, peers, peers, **options)
        self.observer, self.inbox = self.edges.observer, self.edges.inbox
        self.pairs = {peer: Pair(self.edges, peer) for peer in peers}
        self.reception = exchange[name] = Reception(self.pairs, None, RUN, self.observer.refused)
        self.dialler = Dialler(name, RUN, None, self.observer.refused)
        unable = dict(unable)
        self.carriers = [
            Patch(kind, name, exchange, dials=dials, unable=unable.get(kind, {})) for kind in kinds
        ]
        self.link = MeshLink(self.edges, self.pairs, self.reception, self.carriers, self.dialler)
        for pair in self.pairs.values():
            pair.on_change(self.link.notice)

    def connector(self, peer):
        """One that is not the link's."""
        site, tolerance = self.edges.site, self.edges.tolerance
        return Connector(site, self.pairs[peer], self.carriers, self.dialler, tolerance)

    def is_linked(self, peer, kind):
        """Whether what carries to a peer comes to be ``kind``."""
        return self.observer.wait_for(lambda: self.observer.links.get(peer) is kind)


class Patched:
    """Sites that are patched together by carriers of some kinds."""

    def __init__(self):
        self.exchange, self.sites = {}, {}

    def add(self, name, peers, *kinds, **options):
        kinds = kinds or (LinkKind.DIRECT, LinkKind.RELAY)
        self.sites[name] = Site(name, peers, self.exchange, kinds, **options)
        return self.sites[name]

    def both(self, *kinds, **options):
        return self.add("a", "b", *kinds, **options), self.add("b", "a", *kinds, **options)

    def open(self, timeout=10):
        """What opening each link raised."""
        return in_parallel({n: functools.partial(s.link.open, {}, timeout) for n, s in self.sites.items()})

    def close(self, **options):
        in_parallel({n: functools.partial(s.link.close, **options) for n, s in self.sites.items()})
