"""What flaremesh keeps in an executor, under one name, so that a subclass's attributes may have any other."""

from dataclasses import dataclass, field
from pathlib import Path

from nvflare.apis.fl_context import FLContext
from torch.nn import Module

from flaremesh.links import Link
from flaremesh.links.routed import RoutedLink
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.prometheus import PrometheusSink
from flaremesh.p2p.outcome import SiteResult
from flaremesh.p2p.progress import ProgressReporter
from flaremesh.p2p.types import Neighbor
from flaremesh.runtime.history import History
from flaremesh.runtime.site_run import SiteRun
from flaremesh.topology.neighborhood import Neighborhood

START_SECONDS = 60.0  # where nobody says how long the start may take


@dataclass
class Part:
    """A site's part of a run, as far as it has come.

    Attributes:
        folder: the run's at this site.
        simulated: in NVFlare's simulator, where each site works in a folder of its own.
        start_timeout: seconds that the start may take.
        idle: between two of the controller's tasks.
        linked, prepared: these steps are done.
        by_value: what sites tell each other passes through the stock package's methods, at every site.
        routes: the link of a real run, that this executor opens and closes.
        link: what carries messages.
        exchanged: iterations done.
        latest: iteration and number of the latest exchange.
        unread: iterations of which a neighbour was not listed, by neighbour: their messages are dropped.
        shown: ``neighbors`` and own weight as a graph that changes set them last.
        hands_over: a subclass takes in the neighbours' values; None as long as nobody looked.
        listed, hood: whom ``neighbors`` named when it was last looked at, and in which neighbourhood.
        shared: models that have started where the parent's did.
        run, history, outcome: of an algorithm of flaremesh's own.
        context: of the task at hand.
    """

    folder: Path = field(default_factory=Path)
    simulated: bool = False
    start_timeout: float = START_SECONDS
    idle: bool = False
    linked: bool = False
    prepared: bool = False
    by_value: bool = False
    routes: RoutedLink | None = None
    link: Link | None = None
    traffic: TrafficCounter = field(default_factory=lambda: TrafficCounter(()))
    metrics: PrometheusSink | None = None
    progress: ProgressReporter | None = None
    exchanged: int = 0
    latest: tuple[int, int] = (-1, 0)
    unread: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    shown: tuple[list[Neighbor], float] | None = None
    hands_over: bool | None = None
    listed: list[str] | None = None
    hood: Neighborhood | None = None
    shared: list[Module] = field(default_factory=list)
    run: SiteRun | None = None
    history: History | None = None
    outcome: SiteResult | None = None
    context: FLContext | None = None
