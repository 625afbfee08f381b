"""The order of a run: what binds a signed app to one run, its sites, its edges and its time.

The submitter's client signs every file of an app, and this one among them: it lists all others, so that
nobody can put an app together from parts of several that were signed.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from pydantic import AwareDatetime, Field

from flaremesh.checksum import sha256
from flaremesh.p2p.charter import Charter
from flaremesh.p2p.gate.request import Refused, quoted
from flaremesh.p2p.nvflare.signers import SIGNATURE_FILES
from flaremesh.p2p.store import MOST_BYTES, ORDER
from flaremesh.record import RecordError, Schema
from flaremesh.topology.links import LinkKind, LinkMode
from flaremesh.topology.schema import OnLoss, Privacy

_CONFIGURATION = ("config_fed_client.json", "config_fed_server.json")

MOST_HOURS: Final = 12
"""A site takes no order that is older: for so long it remembers the runs that it has let in."""

_AHEAD = timedelta(minutes=10)  # clocks of sites and of submitters differ

_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Order:
    """What a submitter asks of the sites.

    Attributes:
        run: id of the run, a UUID in hexadecimal; another export of the same job is another run.
        at: when it was written.
        sites: the sites of the run; empty where a job written in Python does not say them.
        edges: whose values go to whom; None where a job does not say it.
        links: how edges may travel.
        mesh: its name, where the job is made from its topology file.
        targets: the participants that this app of the job is for; empty where it is for all.
        files: SHA-256 of all other files of the app, by their paths.
        on_loss: whether the run ends when a participant is lost, or has further attempts: with all sites, or
            also without some.
        quorum: so many sites a further attempt has at least; None where it has all.
        continues: id of the run of the same submitter from whose checkpoints this one begins, with other
            sites; empty where it begins by itself.
        privacy: what keeps a site's data from others.
    """

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    at: AwareDatetime
    sites: tuple[_Name, ...]
    edges: Mapping[_Name, tuple[_Name, ...]] | None
    links: LinkMode = "auto"
    mesh: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    targets: tuple[_Name, ...] = ()
    files: Mapping[str, _Digest] = field(default_factory=dict)
    on_loss: OnLoss = "fail"
    quorum: Annotated[int, Field(ge=2)] | None = None
    continues: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""
    privacy: Privacy = field(default_factory=Privacy)

    def peers(self, site: str) -> tuple[str, ...]:
        """The sites with which a site shares an edge, sorted."""
        edges = self.edges or {}
        return tuple(sorted({*edges.get(site, ()), *(s for s, users in edges.items() if site in users)}))


_RECORD: Final[Schema[Order]] = Schema(Order, "the order of a run")


def order(
    sites: tuple[str, ...],
    edges: Mapping[str, tuple[str, ...]] | None,
    links: LinkMode = "auto",
    mesh: str = "",
    on_loss: OnLoss = "fail",
    quorum: int | None = None,
) -> Order:
    """A new order, of now, for all apps of a job; `write` lists the files of one in it."""
    return Order(
        uuid.uuid4().hex, datetime.now(UTC), sites, edges, links, mesh, on_loss=on_loss, quorum=quorum
    )


def write(order: Order, app: Path) -> None:
    """Put an order into the folder of an app that is complete."""
    file = app / ORDER
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_RECORD.json(replace(order, files=digests(app))) + "\n", encoding="utf-8")


def read(app: Path) -> Order:
    """The order in an app's folder.

    Raises:
        Refused: there is none, or it is none.
    """
    file = app / ORDER
    if not file.is_file():
        raise Refused(
            f"the job has no {ORDER}: it is written by `flaremesh run`, and by FedJob when a job with "
            "flaremesh's controller or executors is exported; export it with this version of flaremesh"
        )
    if file.stat().st_size > MOST_BYTES:
        raise Refused(f"{ORDER} is longer than {MOST_BYTES >> 20} MiB")
    try:
        return _RECORD.read(file.read_bytes(), ORDER)
    except RecordError:
        raise Refused(f"{ORDER} is no order of a run: export the job again") from None


def digest(app: Path) -> str:
    """SHA-256 of the order in an app's folder, and so of all that it lists."""
    return sha256(app / ORDER)


def digests(app: Path) -> dict[str, str]:
    """SHA-256 of all files of an app but its order and NVFlare's signatures, by their paths, sorted.

    Of NVFlare's own configuration it is that of what it says: `nvflare job submit` changes spaces.
    """
    return {
        path.relative_to(app).as_posix(): _sha256(path)
        for path in sorted(app.rglob("*"))
        if path.is_file() and path.name not in SIGNATURE_FILES and path != app / ORDER
    }


def check_files(order: Order, found: Mapping[str, str]) -> None:
    """Check that an app is what its order lists.

    Raises:
        Refused: a file is missing, another one, or not listed.
    """
    differing = {
        path for path in order.files.keys() | found.keys() if order.files.get(path) != found.get(path)
    }
    if differing:
        raise Refused(
            f"the app is not what its order lists, in {quoted(min(differing).replace('/', '.'))} and "
            f"{len(differing) - 1} other files: parts of several jobs, or changed after its export. "
            "Export it again"
        )


def check_time(at: datetime, now: datetime) -> None:
    """Check that an order, which was written at ``at``, is of now.

    Raises:
        Refused: it is too old, or of the future.
    """
    if at > now + _AHEAD:
        raise Refused(
            f"the job's order is of {_minutes(at)}, and here it is {_minutes(now)}: "
            "set the clock that is wrong"
        )
    if at < now - timedelta(hours=MOST_HOURS):
        raise Refused(
            f"the job's order is of {_minutes(at)}, more than {MOST_HOURS} hours ago, as it is "
            f"{_minutes(now)} here: export the job again, or set the clock that is wrong"
        )


def check_charter(order: Order, charter: Charter) -> None:
    """Check that the run stays within what a site's kit allows.

    Raises:
        Refused: it asks for more.
    """
    site = charter.participant
    if order.mesh and order.mesh != charter.mesh:
        raise Refused(f"the job is for the mesh {quoted(order.mesh)}, and this is {charter.mesh}")
    if order.sites and site not in order.sites:
        raise Refused("the job is not for this site")
    if order.targets and site not in order.targets:
        raise Refused(
            "the server sends the app of the job that is another site's: ask whoever runs it, unless the job "
            "was put together by hand"
        )
    if missing := sorted(_not_allowed(order, charter)):
        raise Refused(
            f"the kit knows no edge {quoted(missing[0])}: a run may use the edges that were provisioned, and "
            "no others. Provision with the topology file that has it, and hand out the kits"
        )
    if order.links == "auto":
        return
    for peer in order.peers(site):
        if LinkKind(order.links) not in charter.peers[peer].carriers:
            raise Refused(f"the kit does not let the edge with {quoted(peer)} travel by {order.links}")


def _not_allowed(order: Order, charter: Charter) -> Iterator[str]:
    site, peers = charter.participant, charter.peers
    may_send = {name for name, peer in peers.items() if peer.sends}
    may_receive = {name for name, peer in peers.items() if peer.receives}
    for source, users in (order.edges or {}).items():
        for user in users:
            if (source == site and user not in may_send) or (user == site and source not in may_receive):
                yield f"{source}-{user}"


def _sha256(file: Path) -> str:
    if file.name in _CONFIGURATION:
        with suppress(ValueError, RecursionError):  # what is no JSON is taken as it is
            said = json.dumps(json.loads(file.read_bytes()), sort_keys=True)
            return hashlib.sha256(said.encode()).hexdigest()
    return sha256(file)


def _minutes(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
