"""What the server assigns to a site before a run: a stranger's data, held to charter and signed order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeAlias, get_args

from pydantic import Field

from flaremesh.errors import FlaremeshError
from flaremesh.links.carrier import Address
from flaremesh.p2p.charter import Charter, Peer
from flaremesh.p2p.extra import ExtraError, privacy_of
from flaremesh.p2p.gate.order import Order
from flaremesh.p2p.json_dataclass import plain
from flaremesh.p2p.types import LocalConfig, Neighbor
from flaremesh.record import Schema
from flaremesh.topology.links import LinkMode, kinds_of
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import MOST_SITES

_Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=255)]
_Weight: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
_Port: TypeAlias = Annotated[int, Field(ge=1, lt=1 << 16)]
_Count: TypeAlias = Annotated[int, Field(ge=0, le=1 << 20)]
_Id: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
_Label: TypeAlias = Annotated[str, Field(max_length=1000)] | float | None


class CharterError(FlaremeshError):
    """The server or the job asks for more than the site's kit allows.

    Attributes:
        peer: the site in question.
    """

    def __init__(self, peer: str, what: str, rule: str):
        self.peer = peer
        super().__init__(
            f"{what}; {rule} in the kit. A run may use less than the kit says and nothing else: submit it "
            "for the topology that was provisioned, or provision again and install the new kits"
        )


class OrderError(FlaremeshError):
    """The server asks for another run than the one that was signed and let in.

    Attributes:
        peer: the site in question.
    """

    def __init__(self, peer: str, what: str):
        self.peer = peer
        super().__init__(
            f"the server tells {what}, and the run that was signed has it otherwise: ask whoever runs the "
            "server, unless the job was put together by hand"
        )


@dataclass(frozen=True)
class _Neighbor:
    id: _Name
    weight: _Weight | None = None


@dataclass(frozen=True)
class _Hood:
    site: _Name
    self_weight: _Weight
    in_weights: Mapping[_Name, _Weight]
    out: tuple[_Name, ...]
    partners: Mapping[_Name, tuple[_Name, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Link:
    host: _Name
    ports: tuple[_Port, _Port]


@dataclass(frozen=True)
class _Part:
    neighbors: tuple[_Neighbor, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    schedule: tuple[_Hood, ...] = ()
    index: _Count = 0
    sites: _Count = 1
    members: Annotated[tuple[_Name, ...], Field(max_length=MOST_SITES)] = ()
    parent: _Name | None = None
    children: tuple[_Name, ...] = ()
    labels: Mapping[_Name, _Label] = field(default_factory=dict)
    run_id: _Id = ""
    link: _Link | None = None
    row_stochastic: bool = True
    column_stochastic: bool = True
    symmetric: bool = True
    hops: _Count | None = None


@dataclass(frozen=True)
class _Links:
    addresses: Mapping[_Name, tuple[_Name, _Port]]
    start_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    by_value: bool


@dataclass(frozen=True)
class Preparation:
    """The third ``config`` task.

    Attributes:
        resume: the iteration from whose checkpoint the run goes on; None from the start.
        joining: the sites that join the others there.
        repair: whether some do, or have in an attempt that was lost since.
    """

    prepare: bool = True
    resume: Annotated[int, Field(ge=1, le=10**9)] | None = None
    joining: Annotated[tuple[_Name, ...], Field(max_length=MOST_SITES)] = ()
    repair: bool = False


_PART: Final[Schema[_Part]] = Schema(_Part, "a site's part of a run")
_LINKS: Final[Schema[_Links]] = Schema(_Links, "a step of its configuration")
_PREPARATION: Final[Schema[Preparation]] = Schema(Preparation, "a step of its configuration")


def part_of(data: Any, site: str) -> LocalConfig:
    """The site's part of a run, in the data of the first ``config`` task.

    Raises:
        RecordError: it is none.
    """
    part = _PART.of(plain(data), f"what the server sent {site}")
    return LocalConfig(
        neighbors=[Neighbor(neighbor.id, neighbor.weight) for neighbor in part.neighbors],
        extra=dict(part.extra),
        schedule=[
            Neighborhood(h.site, h.self_weight, dict(h.in_weights), h.out, dict(h.partners))
            for h in part.schedule
        ],
        index=part.index,
        sites=part.sites,
        members=list(part.members),
        parent=part.parent,
        children=list(part.children),
        labels=dict(part.labels),
        run_id=part.run_id,
        link={"host": part.link.host, "ports": list(part.link.ports)} if part.link else None,
        row_stochastic=part.row_stochastic,
        column_stochastic=part.column_stochastic,
        symmetric=part.symmetric,
        hops=part.hops,
    )


def links_of(data: Any, site: str) -> _Links:
    """Addresses, time and manner of the second ``config`` task; raises as `part_of` does."""
    return _LINKS.of(data, f"what the server sent {site}")


def preparation_of(data: Any, site: str) -> Preparation:
    """Where to begin, in the data of the third ``config`` task; raises as `part_of` does."""
    return _PREPARATION.of(data, f"what the server sent {site}")


def mode_of(extra: Mapping[str, Any]) -> LinkMode:
    """By what a run's messages may travel: what it says, or all that each pair's carriers allow.

    Raises:
        ExtraError: ``extra["links"]`` is no mode.
    """
    if "links" in extra:
        mode: LinkMode = extra["links"]
        if mode not in get_args(LinkMode):
            raise ExtraError(f'extra["links"] must be one of {", ".join(get_args(LinkMode))}')
        return mode
    return "auto"


def require_allowed(config: LocalConfig, mode: LinkMode, charter: Charter) -> None:
    """Hold a run's neighbours and carriers, and the place where the site listens, to a charter.

    Raises:
        CharterError: a neighbour is none of the charter's peers, or not in this direction or by this carrier,
            or the site would listen elsewhere.
    """
    site = charter.participant
    if config.link is not None:
        _require_place(site, config.link["host"], config.link["ports"], charter)
    for hood in config.schedule:
        if hood.site != site:
            raise CharterError(hood.site, f"{site} is given the part of another site", f"{site} is named")
        for directed, names in (("receives", hood.in_weights), ("sends", hood.out)):
            for name in names:
                peer = _peer(name, charter)
                if not getattr(peer, directed):
                    raise CharterError(
                        name, f"the run wants an edge by which {site} {directed}", f"{name} has no such edge"
                    )
                if not kinds_of(mode).intersection(peer.carriers):
                    raise CharterError(
                        name,
                        f"the run wants `links: {mode}` between {site} and {name}",
                        f"their carriers are {' and '.join(peer.carriers) or 'none'}",
                    )


def require_ordered(config: LocalConfig, mode: LinkMode, order: Order, site: str) -> None:
    """Hold a run's neighbours, carriers and privacy to the order that its submitter signed.

    The site's policy decided on that order, and not on what the server tells once the run was let in.

    Raises:
        OrderError: an edge is not ordered, or travels otherwise, or one that is ordered is withheld; or data
            are to be kept from others in another way.
        ExtraError: ``extra["privacy"]`` is none.
    """
    peers = order.peers(site)
    if order.links not in ("auto", mode):
        raise OrderError(next(iter(peers), site), f"`links: {mode}` for `links: {order.links}`")
    if privacy_of(config.extra) != order.privacy:
        raise OrderError(site, f"{site} of another `privacy` than it would have")
    if order.edges is None:
        return
    for hood in config.schedule:
        told = [(source, site) for source in hood.in_weights] + [(site, user) for user in hood.out]
        for source, user in told:
            if user not in order.edges.get(source, ()):
                peer = user if source == site else source
                raise OrderError(peer, f"of an edge {source}-{user}")
    _require_members(config, order, site)
    for hood in config.schedule:
        for user, partners in hood.partners.items():
            if set(partners) != _partners(config, order, site, user):
                raise OrderError(user, f"that {' and '.join(partners) or 'nobody'} hides what {user} is sent")


def _partners(config: LocalConfig, order: Order, site: str, user: str) -> set[str]:
    """Who shares masks with a site for one of its out-neighbours, by the order's edges."""
    edges = order.edges or {}
    return {
        peer
        for peer in config.members or edges
        if user in edges.get(peer, ()) and peer in edges.get(site, ()) and site in edges.get(peer, ())
    }


def _require_members(config: LocalConfig, order: Order, site: str) -> None:
    """Sites are missing only where the order lets them, and nobody else is kept from this one.

    Whether a site is there the server alone can tell.
    """
    everyone = set(order.sites or config.members)  # a job written in Python need not say its sites
    members = set(config.members or everyone)
    missing = sorted(everyone - members)
    if (members and site not in members) or not members <= everyone:
        raise OrderError(site, f"{site} of other sites that take part")
    if missing and (order.on_loss != "continue" or len(members) < (order.quorum or len(everyone))):
        raise OrderError(missing[0], f"that {', '.join(missing)} take part no more")
    sources = {source for hood in config.schedule for source in hood.in_weights}
    users = {user for hood in config.schedule for user in hood.out}
    for source, user in ((s, u) for s, ends in (order.edges or {}).items() for u in ends):
        if (source == site and user in members - users) or (user == site and source in members - sources):
            peer = user if source == site else source
            raise OrderError(peer, f"of no edge {source}-{user}, though {peer} takes part")


def require_places(addresses: Mapping[str, Address], charter: Charter) -> None:
    """Hold the places where the server says that neighbours may be dialled to a charter.

    Raises:
        CharterError: a neighbour would be dialled elsewhere.
    """
    for name, (host, port) in addresses.items():
        _require_place(name, host, (port,), _peer(name, charter))


def _require_place(name: str, host: str, ports: Iterable[int], known: Peer | Charter) -> None:
    low, high = known.ports or (1, 0)
    if host != known.host or not all(low <= port <= high for port in ports):
        place = f"{known.host}, ports {low} to {high}, is its place" if known.host else "it has no place"
        raise CharterError(name, f"the server gives another place where to dial {name}", place)


def _peer(name: str, charter: Charter) -> Peer:
    known = charter.peers.get(name)
    if known is None:
        quoted = ascii(name) if not name.isprintable() else name
        raise CharterError(name, f"{quoted} is to be a neighbour of {charter.participant}", "it is no peer")
    return known
