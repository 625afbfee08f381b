"""The state that flaremesh keeps in one attribute of an executor, so that subclasses may use other names."""

from dataclasses import dataclass, field

from nvflare.apis.fl_context import FLContext
from torch.nn import Module

from flaremesh.links import LinkError
from flaremesh.p2p.executors.assignment import Preparation
from flaremesh.p2p.executors.member import Member
from flaremesh.p2p.executors.native_run import NativeRun
from flaremesh.p2p.outcome import SiteResult
from flaremesh.p2p.types import Neighbor
from flaremesh.topology.neighborhood import Neighborhood

START_SECONDS = 60.0  # that the start may take, unless the controller says otherwise


@dataclass
class Exchanges:
    """How far the exchanges of values by the stock package's methods have come.

    Attributes:
        done: iterations done.
        latest: iteration of the latest exchange, and how often it has been no greater than the one before.
        unread: exchanges whose message is still to be dropped, by a neighbour that was not listed in them.
        shown: ``neighbors`` and own weight as a graph that changes set them last.
        listed, hood: whom ``neighbors`` named when it was last looked at, and in which neighbourhood.
    """

    done: int = 0
    latest: tuple[int, int] = (-1, 0)
    unread: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    shown: tuple[list[Neighbor], float] | None = None
    listed: list[str] | None = None
    hood: Neighborhood | None = None


@dataclass
class Part:
    """A site's part of a run, as far as it has come.

    Attributes:
        joined: the site in the run; None before the controller has configured it.
        context: NVFlare's context of the present task.
        idle: whether it is between two of the controller's tasks.
        linked, prepared: whether these steps are done.
        start_timeout: seconds that the start may take.
        by_value: whether all sites exchange values by the stock package's methods.
        exchanges: how far the exchanges of values have come.
        shared: models that got their initial point from the parent site.
        preparation: where the run begins.
        native: the run of a registered algorithm; None before it is built.
        outcome: the result of that run; None before its end.
    """

    joined: Member | None = None
    context: FLContext = field(default_factory=FLContext)
    idle: bool = False
    linked: bool = False
    prepared: bool = False
    start_timeout: float = START_SECONDS
    by_value: bool = False
    exchanges: Exchanges = field(default_factory=Exchanges)
    shared: list[Module] = field(default_factory=list)
    preparation: Preparation = field(default_factory=Preparation)
    native: NativeRun | None = None
    outcome: SiteResult | None = None

    @property
    def member(self) -> Member:
        """The site in the run.

        Raises:
            LinkError: the controller has not configured this executor.
        """
        if self.joined is None:
            raise LinkError(
                "this site is not linked: its execute takes the config task itself; "
                "let it call super().execute for it"
            )
        return self.joined
